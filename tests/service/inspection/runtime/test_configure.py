import json
import subprocess
import sys

PROGRAM = """
import json
import cv2
from PIL import Image

cv2.setNumThreads(3)

def options():
    return [cv2.getNumThreads(), Image.MAX_IMAGE_PIXELS]

before = options()
import service.inspection.inspector, service.inspection.heatmap, service.inspection.decoding.decoder
imported = options()
from service.inspection.runtime.configure import configure
configure()
first = options()
configure()
print(json.dumps([before, imported, first, options()]))
"""


def test_only_configure_changes_the_options_of_the_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)

    before, imported, configured, configured_again = json.loads(done.stdout)

    assert imported == before
    assert before[0] == 3
    assert isinstance(before[1], int)
    assert configured == configured_again == [1, None]
