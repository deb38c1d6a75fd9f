"""Say what is installed, what is missing and what to do about it: see --help."""

from zoo.doctor import main

if __name__ == "__main__":
    raise SystemExit(main())
