"""`python -m t5kit`: the command line of the t5kit that this Python has."""

from t5kit.cli.main import main

if __name__ == "__main__":
    main()
