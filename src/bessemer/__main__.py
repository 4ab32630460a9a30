"""`python -m bessemer` is `bessemer`."""

from bessemer.cli.main import main

if __name__ == "__main__":
    main()
