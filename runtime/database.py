"""The connection to MongoDB."""

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from metering.errors import MetersError
from metering.settings import Settings
from runtime.mongo_errors import mongo_unavailable

ANSWER_WITHIN_SECONDS = 10


def connect(settings: Settings) -> Database:
    """Connect, and prove that a primary answers.

    Raises:
        MetersError: MongoDB does not answer, or refuses the credentials.
    """
    try:
        client: MongoClient = MongoClient(
            settings.mongo,
            tz_aware=True,
            w="majority",
            serverSelectionTimeoutMS=ANSWER_WITHIN_SECONDS * 1000,
            connectTimeoutMS=ANSWER_WITHIN_SECONDS * 1000,
        )
        client.admin.command("hello")
        return client[settings.mongo_database]
    except (ConnectionFailure, OperationFailure) as error:
        raise mongo_unavailable(settings, error) from error
    except PyMongoError as error:
        # Without the library's words, which may hold a part of the password.
        raise MetersError(
            f"METERS_MONGO_URI is not usable ({type(error).__name__})", fix="See .env.example for its form"
        ) from None
    except ValueError:
        raise MetersError("METERS_MONGO_URI is not usable", fix="See .env.example for its form") from None


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """The database for as long as the block lasts; what MongoDB refuses in the block becomes the one line.

    Raises:
        MetersError: MongoDB does not answer, refuses, or fails in the block.
    """
    database = connect(settings)
    try:
        yield database
    except PyMongoError as error:
        raise mongo_unavailable(settings, error) from error
    finally:
        database.client.close()
