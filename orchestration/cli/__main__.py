"""`python -m orchestration.cli`: the command line, for processes that start others of their kind."""

from orchestration.cli import main

if __name__ == "__main__":
    main()
