"""What runs in a project's folder, shown while it runs: in a terminal, and as pages that refresh."""
