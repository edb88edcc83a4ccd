"""`python -m fedpipe` is the program `fedpipe`."""

from fedpipe.cli import main

if __name__ == "__main__":
    main()
