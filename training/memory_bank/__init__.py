"""A memory bank of normal features: a coreset of prototypes, searched for the nearest one.

See docs/methods.md, section *Memory bank*.
"""

from training.memory_bank.bank import SEARCH_CANDIDATES, SEARCH_PROTOTYPES, BankVariant, MemoryBank
from training.memory_bank.coreset import MAX_CANDIDATES, greedy_coreset
from training.memory_bank.scales import BANKS, ScaledBanks
from training.memory_bank.search import nearest, normalise
from training.memory_bank.variant import Neighbours, measure_neighbours

__all__ = [
    "BANKS",
    "MAX_CANDIDATES",
    "SEARCH_CANDIDATES",
    "SEARCH_PROTOTYPES",
    "BankVariant",
    "MemoryBank",
    "Neighbours",
    "ScaledBanks",
    "greedy_coreset",
    "measure_neighbours",
    "nearest",
    "normalise",
]
