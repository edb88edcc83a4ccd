"""What people read after a run: tables, pictures, and whether results agree with the committed ones."""
