"""Write a trained model as graphs for other runtimes, ``ckpt=last input=FILE``: see --help."""

from zoo.export import main

if __name__ == "__main__":
    main()
