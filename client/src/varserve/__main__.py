"""`python -m varserve`: the command line."""

from varserve.cli import main

if __name__ == "__main__":
    main()
