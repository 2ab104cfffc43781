"""Which lake there is: a folder, or an object store."""

from meter_assets.lake.base import Lake
from meter_assets.lake.folder import FolderLake
from meter_assets.lake.object_store import ObjectLake
from metering.settings import Settings


def open_lake(settings: Settings) -> Lake:
    """The lake at METERS_LAKE.

    Raises:
        MetersError: it is in an object store, and that cannot be used.
    """
    return ObjectLake(settings) if settings.is_lake_in_s3 else FolderLake(settings.lake_path)
