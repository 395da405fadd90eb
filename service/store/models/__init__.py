"""ORM models of the database tables."""

from service.store.models.access import AccountRow, ApiKeyRow, LoginAttemptRow, SessionRow
from service.store.models.audit import AuditRow
from service.store.models.base import Base, UtcDateTime
from service.store.models.bundles import BundleRemovalRow, BundleRow
from service.store.models.drift import DriftAlarmRow, DriftPositionRow, DriftStreamRow
from service.store.models.inspections import IdempotencyRow, InspectionRow, ShadowRow
from service.store.models.outbox import OutboxRow
from service.store.models.recipes import BundleChoiceRow, ProposalRow, RecipeRow
from service.store.models.removals import RecordRemovalRow
from service.store.models.reviews import InspectionLabelRow, ReviewRow
from service.store.models.schema import SchemaCompatibilityRow
from service.store.models.training import TrainingImageRow, TrainingJobRow

__all__ = [
    "UtcDateTime",
    "Base",
    "InspectionRow",
    "RecipeRow",
    "ProposalRow",
    "BundleChoiceRow",
    "BundleRow",
    "BundleRemovalRow",
    "ShadowRow",
    "IdempotencyRow",
    "AuditRow",
    "OutboxRow",
    "ApiKeyRow",
    "AccountRow",
    "SessionRow",
    "LoginAttemptRow",
    "RecordRemovalRow",
    "ReviewRow",
    "InspectionLabelRow",
    "DriftPositionRow",
    "DriftStreamRow",
    "DriftAlarmRow",
    "TrainingJobRow",
    "TrainingImageRow",
    "SchemaCompatibilityRow",
]
