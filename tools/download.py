"""List the weights of the zoo, or fetch them, ``NAME``, ``'spark-*'`` or ``--all``: see --help."""

from zoo.download import main

if __name__ == "__main__":
    raise SystemExit(main())
