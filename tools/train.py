"""Train, test and report one run: ``python tools/train.py experiment=NAME key=value ...``."""

from zoo.train import main

if __name__ == "__main__":
    main()
