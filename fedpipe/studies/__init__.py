"""Many experiments and one answer: what they came to over seeds, how sure that is, and tables of it."""
