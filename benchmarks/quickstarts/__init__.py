"""The shortest programs for a task of peers' own quickstarts. docs/how-to/notebook.md counts the lines of all."""
