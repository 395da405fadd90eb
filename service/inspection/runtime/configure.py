"""Process-wide options of the libraries that the decision core uses."""

from __future__ import annotations


def configure() -> None:
    """Set the process-wide options of OpenCV and Pillow.

    Every program calls it once before it inspects images: the service when its application is created, the command line
    and the training program at their start. Importing `service.inspection` changes none of these options, so a program
    that embeds it can choose its own. Calling it again changes nothing.

    - OpenCV runs on one thread. Images are processed in parallel, one thread each, and OpenCV's own threads would
      compete for the same cores.
    - Pillow's limit on decoded pixels is switched off, because it is one value for the whole process. `decoder.decode`
      takes a limit with every call and checks it before it decodes.
    """
    # Imported here: a command that inspects nothing need not load them.
    import cv2
    from PIL import Image

    cv2.setNumThreads(1)
    Image.MAX_IMAGE_PIXELS = None
