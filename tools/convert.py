"""Write the weights of a pre-trained convnet under the names of timm or detectron2: see --help."""

from zoo.convert import main

if __name__ == "__main__":
    raise SystemExit(main())
