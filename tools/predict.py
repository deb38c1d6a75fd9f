"""Run a trained model on your own files, ``ckpt=last input=FILE``: see --help."""

from zoo.predict import main

if __name__ == "__main__":
    main()
