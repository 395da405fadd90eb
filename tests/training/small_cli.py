"""The program plumbline-train with the method `small` as well, for tests that start it as a process."""

from tests.training.small_trained_method import SmallTrainedMethod
from training.cli.main import main
from training.methods import METHODS

METHODS[SmallTrainedMethod.name] = SmallTrainedMethod  # also in the processes that a command starts

if __name__ == "__main__":
    main()
