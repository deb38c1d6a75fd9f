"""Check, prepare or generate a data set, ``data=NAME action=check|prepare|generate``: see --help."""

from zoo.prepare_data import main

if __name__ == "__main__":
    main()
