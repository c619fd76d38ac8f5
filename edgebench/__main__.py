"""`python -m edgebench`: the same as the console script."""

from edgebench.cli.main import main

if __name__ == "__main__":
    main()
