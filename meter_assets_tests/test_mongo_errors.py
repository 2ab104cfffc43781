"""Each class of MongoDB's errors has its own line; the errors are a real server's, by its failpoints."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pymongo import InsertOne, MongoClient
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DocumentTooLarge, PyMongoError

from local_stack import LocalStack
from metering.errors import ServiceAwayError
from metering.settings import Settings
from metering.store import READINGS
from runtime.database import connect
from runtime.mongo_errors import mongo_unavailable

PASSWORD_LINE = "Check the user, password and rights"


@contextmanager
def failing(settings: Settings, *, code: int, command: str) -> Iterator[None]:
    """Every such command of any client fails with that code."""
    with MongoClient(settings.mongo) as client:
        point = {"configureFailPoint": "failCommand", "data": {"failCommands": [command], "errorCode": code}}
        client.admin.command({**point, "mode": "alwaysOn"})
        try:
            yield
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.mark.parametrize(
    ("code", "said", "may_succeed_later"),
    [
        (13, "refused: ", False),
        (18, "refused: ", False),
        (8000, "refused: ", False),
        (14031, "has no disk space", True),
        (50, "took too long", True),
        (262, "took too long", True),
        (24, "took too long", True),
        (237, "was made to stop this work", True),
        (112, "met another writer", True),
        (10334, "takes no document above 16 MB", False),
        (146, "needs more memory", False),
        (1, "refused: ", False),
        (9, "refused: ", False),
    ],
)
def test_each_class_of_errors_says_what_to_do(
    database: Settings, mongo: Database, code: int, said: str, may_succeed_later: bool
) -> None:
    """All of them ended in "Check the user, password and rights"."""
    with failing(database, code=code, command="aggregate"), pytest.raises(PyMongoError) as raised:
        list(mongo[READINGS].aggregate([]))
    error = mongo_unavailable(database, raised.value)
    assert str(error).startswith("MongoDB at 127.0.0.1:")
    assert said in str(error)
    assert len(str(error).splitlines()) == 1
    assert isinstance(error, ServiceAwayError) == may_succeed_later
    assert (PASSWORD_LINE in str(error)) == (code in (13, 18, 8000))
    assert error.fix


def test_without_a_primary_it_is_no_matter_of_passwords(database: Settings, mongo: Database) -> None:
    with failing(database, code=10107, command="aggregate"), pytest.raises(PyMongoError) as raised:
        list(mongo[READINGS].aggregate([]))
    error = mongo_unavailable(database, raised.value)
    assert isinstance(error, ServiceAwayError) and "has no primary now" in str(error)


def test_the_error_of_a_batch_is_that_of_its_writes(database: Settings, mongo: Database) -> None:
    with pytest.raises(BulkWriteError) as raised:
        mongo[READINGS].bulk_write([InsertOne({"_id": "no reading"})], ordered=False)
    error = mongo_unavailable(database, raised.value)
    assert "does not allow" in str(error) and PASSWORD_LINE not in str(error)


def test_a_document_that_is_too_large_is_said_to_be(database: Settings, mongo: Database) -> None:
    with pytest.raises(DocumentTooLarge) as raised:  # the client's own, and no PyMongoError
        mongo["anything"].insert_one({"text": "x" * (17 << 20)})
    assert "takes no document above 16 MB" in str(mongo_unavailable(database, raised.value))


def test_a_server_that_is_gone_does_not_answer(database: Settings, stack: LocalStack) -> None:
    own = connect(database)
    stack.kill("mongo")
    try:
        with pytest.raises(PyMongoError) as raised:
            own.client.admin.command("ping", maxTimeMS=1)
    finally:
        stack.start_service("mongo")
        own.client.close()
    error = mongo_unavailable(database, raised.value)
    assert str(error).startswith("MongoDB does not answer at 127.0.0.1:")
