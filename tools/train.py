"""Train, test and report one run, ``experiment=NAME key=value ...``: see --help."""

from zoo.train import main

if __name__ == "__main__":
    main()
