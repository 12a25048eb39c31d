"""What goes into a job comes out of it as the task asks for it, or is refused when it is enqueued."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcrew import ArgumentsError, Blob, ConfigurationError, Context
from nightcrew.codec import Signature, decode_value, encode_value, unescape_result
from nightcrew.storable import find_blobs


class Color(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


class Address(TypedDict):
    street: str


@dataclass
class Order:
    id: int
    lines: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Incomparable:
    weight: float | None


class Customer(msgspec.Struct):
    name: str
    orders: list[Order] = []
    photo: Blob | None = None


class Model:
    """What a pydantic model looks like from outside; ours is never imported."""

    model_fields: ClassVar[dict[str, Any]] = {"age": int, "photo": Any}

    def __init__(self, age: int, photo: Blob | None = None) -> None:
        self.age = age
        self.photo = photo

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.age == self.age

    __hash__ = None  # type: ignore[assignment]

    def model_dump(self, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"age": self.age}

    @classmethod
    def model_validate(cls, value: Any) -> Model:
        if not isinstance(value["age"], int):
            raise ValueError("age must be a number")
        return cls(value["age"])


BLOB = Blob(id="01a200c5-7dc8-7000-bd24-009034a674f2", name="deck.pptx", size=3, sha256="0" * 64)


def around(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """What the task is called with after its arguments went through the store."""
    signature = Signature.of(function, "t")
    positional, keyword = signature.decode(signature.encode(args, kwargs))
    return list(positional), keyword


def refused(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The message with which an enqueue is refused."""
    with pytest.raises(ArgumentsError) as caught:
        Signature.of(function, "t").encode(args, kwargs)
    return str(caught.value)


# every kind of value comes back as what it was


def rich(
    when: datetime,
    day: date,
    wait: timedelta,
    key: UUID,
    price: Decimal,
    color: Color,
    path: Path,
    point: Point,
    address: Address,
    order: Order,
    customer: Customer,
    model: Model,
    deck: Blob,
    data: bytes,
    numbers: set[int],
    pair: tuple[int, str],
    table: dict[int, float],
    kind: Literal["a", "b"],
    small: Annotated[int, msgspec.Meta(le=9)],
    either: int | str | None,
) -> None: ...


RICH: dict[str, Any] = {
    "when": datetime(2026, 9, 1, 12, 30, tzinfo=UTC),
    "day": date(2026, 9, 1),
    "wait": timedelta(hours=1),
    "key": UUID(int=7),
    "price": Decimal("1.10"),
    "color": Color.RED,
    "path": Path("/a/b"),
    "point": Point(1, 2),
    "address": {"street": "x"},
    "order": Order(1, ["a"]),
    "customer": Customer("Ann", [Order(2)], BLOB),
    "model": Model(30),
    "deck": BLOB,
    "data": b"\x00\xff",
    "numbers": {1, 2},
    "pair": (1, "a"),
    "table": {1: 1.5},
    "kind": "a",
    "small": 3,
    "either": None,
}


def test_values_come_back_as_their_annotations_say() -> None:
    args, kwargs = around(rich, **RICH)
    assert not kwargs
    assert dict(zip(RICH, args, strict=True)) == RICH
    assert [type(value) for value in args] == [type(value) for value in RICH.values()]


def test_plain_json_is_converted_by_the_annotation() -> None:
    """So that the command line and HTTP can enqueue any task."""

    def task(when: datetime, order: Order, path: Path) -> None: ...

    args, _ = around(task, "2026-09-01T12:30:00Z", {"id": 1}, "/a")
    assert args == [datetime(2026, 9, 1, 12, 30, tzinfo=UTC), Order(1), Path("/a")]


def test_the_stored_form_is_one_object_by_parameter_name() -> None:
    def task(a: int, b: str = "x", *, c: bool = False) -> None: ...

    signature = Signature.of(task)
    assert signature.encode((1,)) == b'{"a":1}', "a default that was not passed is not stored"
    assert signature.encode((1, "x"), {"c": True}) == b'{"a":1,"b":"x","c":true}'
    assert Signature.of(lambda: None).encode(()) == b"{}"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_whatever_json_can_say_passes_unannotated(value: Any) -> None:
    def task(value): ...  # type: ignore[no-untyped-def]

    assert around(task, value) == ([value], {})


@given(
    st.one_of(
        json_values,
        st.binary(),
        st.dates(),
        st.decimals(),
        st.sets(st.integers()),
        st.floats(),
        st.dictionaries(st.integers(), st.integers()),
    )
)
def test_what_is_taken_unannotated_comes_back_equal(value: Any) -> None:
    """Nothing is changed in silence: it is equal, or it was refused."""

    def task(value): ...  # type: ignore[no-untyped-def]

    try:
        [back], _ = around(task, value)
    except ArgumentsError:
        return
    assert back == value


# binding


def test_calls_bind_as_python_binds_them() -> None:
    def task(a: int, b: int = 2, *rest: int, c: int, d: int = 4, **more: int) -> None: ...

    assert around(task, 1, c=3) == ([1], {"c": 3})
    assert around(task, 1, 2, 5, 6, c=3, z=9) == ([1, 2, 5, 6], {"c": 3, "z": 9})
    assert around(task, 1, c=3, rest=7, more=8) == ([1], {"c": 3, "rest": 7, "more": 8})


def test_positional_only_parameters_stay_positional() -> None:
    def task(a: int = 1, /, b: int = 2, **more: int) -> None: ...

    assert around(task, 5, a=6) == ([5], {"a": 6})
    assert around(task, b=3) == ([], {"b": 3})


def test_a_default_in_the_middle_is_left_to_the_function() -> None:
    def task(a: int, b: int = 2, c: int = 3) -> None: ...

    assert around(task, 1, c=4) == ([1], {"c": 4})
    assert around(task, 1) == ([1], {})


def test_a_default_need_not_be_storable() -> None:
    marker = object()

    def task(a: Any = marker) -> None: ...

    assert around(task) == ([], {})


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1, 2, 3), {}, "too many positional arguments"),
        ((1,), {"x": 1}, "unexpected keyword argument 'x'"),
        ((1,), {"a": 1}, "multiple values for argument 'a'"),
        ((1,), {"ctx": 1}, "leave it out"),
    ],
)
def test_a_call_that_does_not_fit_says_why_and_what_fits(
    args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    def task(ctx: Context, a: int, b: str = "x") -> None: ...

    message = refused(task, *args, **kwargs)
    assert says in message
    assert "task t" in message
    if says != "leave it out":
        assert "(a: int, b: str = 'x')" in message


# the context


def test_the_context_is_injected_wherever_it_stands() -> None:
    def first(ctx: Context, a: int, b: int) -> None: ...
    def between(a: int, ctx: Context, b: int) -> None: ...
    def last(a: int, b: int, *, job: Context | None = None) -> None: ...

    for function, name in ((first, "ctx"), (between, "ctx"), (last, "job")):
        signature = Signature.of(function)
        assert signature.context_parameter == name
        args, kwargs = signature.decode(signature.encode((1, 2)))
        here = object()
        kwargs[name] = here
        bound = __import__("inspect").signature(function).bind(*args, **kwargs).arguments
        assert bound == {"a": 1, "b": 2, name: here}


def test_a_context_that_cannot_be_passed_by_name_is_refused() -> None:
    def positional_only(ctx: Context, /) -> None: ...
    def before_rest(ctx: Context, *rest: int) -> None: ...
    def twice(one: Context, two: Context) -> None: ...

    for function in (positional_only, before_rest, twice):
        with pytest.raises(ConfigurationError, match="Context"):
            Signature.of(function)


# refusals at the door


def test_a_wrong_value_is_named_by_its_path() -> None:
    def task(customer: Customer) -> None: ...

    message = refused(task, {"name": "Ann", "orders": [{"id": "x"}]})
    assert message.startswith("task t: args.customer.orders[0].id: expected int, got str")
    assert "pass what its annotation says" in message


def test_limits_in_annotations_count() -> None:
    def task(small: Annotated[int, msgspec.Meta(le=9)]) -> None: ...

    assert "args.small" in refused(task, 10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: {"a": v}, Incomparable])
def test_numbers_that_json_lacks_are_refused_not_nulled(value: float, wrap: Callable[[float], Any]) -> None:
    def untyped(value): ...  # type: ignore[no-untyped-def]
    def optional(value: float | list[float | None] | dict[str, float | None] | None) -> None: ...
    def inside(value: Incomparable | None) -> None: ...

    wrapped = wrap(value)
    assert "args.value" in refused(untyped, wrapped)
    assert "args.value" in refused(inside if isinstance(wrapped, Incomparable) else optional, wrapped)


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        date(2026, 1, 1),
        Decimal(1),
        Color.RED,
        {1: 2},
        Order(1),
        {1},
        [Decimal(1)],
        {"a": UUID(int=1)},
    ],
)
def test_rich_values_need_an_annotation_to_come_back(value: Any) -> None:
    def task(value): ...  # type: ignore[no-untyped-def]

    assert "annotate it" in refused(task, value)


def test_what_json_cannot_say_is_refused() -> None:
    def task(value: Any) -> None: ...

    loop: list[Any] = []
    loop.append(loop)
    for value in (object(), lambda: None, loop, "\ud800", {(1, 2): 3}, 1j, range(3)):
        assert "args.value" in refused(task, value)


def test_a_model_that_refuses_its_data_is_an_arguments_error() -> None:
    def task(model: Model) -> None: ...

    assert "age must be a number" in refused(task, {"age": "old"})


# declarations that cannot work


class Unknown: ...


def test_types_that_cannot_be_stored_are_refused_when_compiled() -> None:
    def custom(value: Unknown) -> None: ...
    def inside(value: list[dict[str, Unknown]]) -> None: ...
    def result() -> Unknown:
        raise NotImplementedError

    def mixed(value: Path | str) -> None: ...
    def callback(value: Callable[[], None]) -> None: ...

    for function in (custom, inside, result, mixed, callback):
        with pytest.raises(ConfigurationError, match="task t") as caught:
            Signature.of(function, "t")
        assert "dataclasses" in str(caught.value)


def test_a_name_that_cannot_be_found_is_told_with_advice() -> None:
    def task(value: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match=r"'Missing'.*import it at the top of the module"):
        Signature.of(task, "t")


# arguments of another version of the code


def test_stored_arguments_that_do_not_fit_any_more_fail_that_job_with_words() -> None:
    def task(a: int) -> None: ...

    for stored in (b'{"a":"x"}', b"{}", b'{"a":1,"gone":2}', b"[]", b"{", b'{"a":1}}'):
        with pytest.raises(ArgumentsError, match="do not fit task t"):
            Signature.of(task, "t").decode(stored)


@given(st.binary(max_size=60))
def test_no_stored_bytes_do_more_than_fail(data: bytes) -> None:
    signature = Signature.of(rich)
    with pytest.raises(ArgumentsError):
        signature.decode(data)


def test_arguments_may_be_raw() -> None:
    def task(a: int) -> None: ...

    assert Signature.of(task).decode(msgspec.Raw(b'{"a":1}')) == ((1,), {})


# results


def test_results_are_checked_and_come_back_typed() -> None:
    def task() -> Order:
        raise NotImplementedError

    signature = Signature.of(task, "t")
    assert signature.decode_result(signature.encode_result(Order(1))) == Order(1)
    for wrong in (None, 5, "x"):
        with pytest.raises(ArgumentsError, match="result of task t"):
            signature.encode_result(wrong)


def test_a_plain_none_is_not_stored() -> None:
    def task() -> None: ...

    signature = Signature.of(task)
    assert signature.encode_result(None) is None
    assert signature.decode_result(None) is None


def test_an_unannotated_result_is_stored_as_well_as_json_can() -> None:
    """The work is done: only what would be lost is refused."""

    def task(): ...  # type: ignore[no-untyped-def]

    signature = Signature.of(task, "t")
    assert signature.decode_result(signature.encode_result(date(2026, 1, 1))) == "2026-01-01"
    with pytest.raises(ArgumentsError, match="nan"):
        signature.encode_result({"a": [math.nan]})
    with pytest.raises(ArgumentsError, match="cannot be stored"):
        signature.encode_result(object())


async def test_the_result_of_a_coroutine_is_what_it_is_awaited_to() -> None:
    async def task() -> int:
        return 1

    signature = Signature.of(task)
    assert signature.decode_result(signature.encode_result(1)) == 1


@pytest.mark.parametrize("value", [{"$blob": {"id": "x"}}, {"$value": 1}, {"$": 2}, {"a": {"$blob": 1}}])
def test_a_result_that_looks_like_an_envelope_is_not_taken_for_one(value: Any) -> None:
    def task() -> dict[str, Any]:
        raise NotImplementedError

    signature = Signature.of(task)
    stored = signature.encode_result(value)
    assert stored is not None
    assert not stored.startswith(b'{"$blob"')
    assert signature.decode_result(stored) == value
    assert msgspec.json.decode(unescape_result(stored)) == value


# blobs


def test_blobs_are_found_wherever_they_are() -> None:
    other = msgspec.structs.replace(BLOB, id="02a200c5-7dc8-7000-bd24-009034a674f2")
    value = [{"a": BLOB}, Customer("x", photo=other), (BLOB,), Model(1, other), {"b": [None, 3, "x"]}]
    assert find_blobs(value) == (BLOB.id, other.id)


def test_plain_signatures_do_not_pay_for_looking() -> None:
    def plain(a: int, b: list[str], c: Order) -> int:
        raise NotImplementedError

    def held(customer: list[Customer]) -> Blob | None:
        raise NotImplementedError

    assert not Signature.of(plain).may_hold_blobs
    assert not Signature.of(plain).result_may_hold_blobs
    assert Signature.of(held).may_hold_blobs
    assert Signature.of(held).find_blobs(BLOB) == (BLOB.id,)


# values outside of calls


def test_values_are_stored_and_typed_the_same_way() -> None:
    assert decode_value(encode_value(Order(1)), Order) == Order(1)
    assert decode_value(encode_value(Order(1))) == {"id": 1, "lines": []}
    with pytest.raises(ArgumentsError, match="the checkpoint"):
        encode_value(object(), "the checkpoint")
    with pytest.raises(ArgumentsError, match=r"the checkpoint\.id: expected int"):
        decode_value(b'{"id":"x"}', Order, "the checkpoint")
