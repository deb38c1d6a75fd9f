"""List models and the experiments that train them: see --help."""

from zoo.listing import main

if __name__ == "__main__":
    raise SystemExit(main())
