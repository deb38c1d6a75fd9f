"""Measure speed side by side with named peers, or record a finished run: see --help."""

from zoo.benchmark.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
