"""Render test views, orbits, spirals and camera paths of a trained field, ``ckpt=last views=orbit``: see --help."""

from zoo.render import main

if __name__ == "__main__":
    main()
