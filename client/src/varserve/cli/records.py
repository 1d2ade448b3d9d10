"""The fields of each kind of record: one description gives its table and its JSON.

A new field is one row here, and is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import output
from .late import late

if TYPE_CHECKING:
    from varserve import tensors
    from varserve._client import wording
else:
    wording = late("varserve._client.wording")
    tensors = late("varserve.tensors")


class Field(NamedTuple):
    """One field of a record.

    key, value: in JSON; "" for the table alone. head: of the table's column, `>` for
    numbers; "" for JSON alone. text: what the table shows, where it is not the value.
    drop: as of a column.
    """

    key: str
    value: Callable[[Any], Any]
    head: str = ""
    text: Callable[[Any], object] | None = None
    drop: int = 0

    @property
    def column(self) -> output.Column:
        """Of the table."""
        return output.Column(self.head.removeprefix(">"), self.head.startswith(">"), self.drop)

    def of(self, part: Callable[[Any], Any]) -> Field:
        """The same field of a part of another record."""
        value, text = self.value, self.text
        return self._replace(
            value=lambda record: value(part(record)),
            text=None if text is None else lambda record: text(part(record)),
        )

    def shown(self, record: Any) -> object:
        """What people see."""
        shown = (self.text or self.value)(record)
        return "" if shown is None else shown


Description = Sequence[Field]


def documents(fields: Description, records: Iterable[Any]) -> list[dict[str, Any]]:
    """Records as JSON has them."""
    told = [each for each in fields if each.key]
    return [{each.key: output.jsonable(each.value(record)) for each in told} for record in records]


def document(fields: Description, record: Any) -> dict[str, Any]:
    """One record as JSON has it."""
    return documents(fields, [record])[0]


def table(fields: Description, records: Iterable[Any]) -> None:
    """Records as a table."""
    told = [each for each in fields if each.head]
    output.table(
        [
            output.Column(each.head.removeprefix(">"), each.head[0] == ">", each.drop)
            for each in told
        ],
        [[each.shown(record) for each in told] for record in records],
    )


def block(fields: Description, record: Any) -> None:
    """One record, a line for each field."""
    told = [(each.head.removeprefix(">"), each.shown(record)) for each in fields if each.head]
    output.table(["", ""], [(head, shown) for head, shown in told if shown != ""])


def _typed(each: Any) -> str:
    return output.typed(each.dtype, each.shape)


def _shape(each: Any) -> list[int | None] | None:
    return None if each.shape is None else list(each.shape)


# ---- what there is ----

HEADER: Description = (
    Field("model", lambda h: h.model),
    Field("version", lambda h: h.version),
    Field("epoch", lambda h: h.epoch),
    Field("revision", lambda h: h.revision),
)

MODELS: Description = (
    Field("name", lambda m: m.name, "model"),
    Field("version", lambda m: m.version, ">version"),
    Field("epoch", lambda m: m.epoch),
    Field("state", lambda m: str(m.state), "state"),
    Field("labels", lambda m: list(m.labels)),
    Field("revision", lambda m: m.revision, ">revision"),
    Field("device", lambda m: m.device, "device", drop=2),
    Field("variables", lambda m: m.variable_count, ">variables", drop=1),
    Field("bytes", lambda m: m.variable_bytes, ">size", lambda m: output.size(m.variable_bytes)),
)

VARIABLES: Description = (
    Field("name", lambda v: v.name, "variable"),
    Field("path", lambda v: v.path),
    Field("dtype", lambda v: tensors.dtype_name(v.dtype), "type", _typed),
    Field("shape", _shape),
    Field("trainable", lambda v: v.trainable),
    Field("initialized", lambda v: v.initialized),
    Field(
        "bytes", lambda v: v.nbytes, ">size", lambda v: output.size(v.nbytes) if v.nbytes else ""
    ),
    Field(
        "revision",
        lambda v: v.revision,
        ">revision",
        lambda v: v.revision if v.initialized else "no value",
        drop=2,
    ),
    Field("device", lambda v: v.device, "device", drop=3),
)

OVERLOADS: Description = (
    Field("inputs", lambda o: [str(each) for each in o.inputs]),
    Field("outputs", lambda o: [f"{each.name}: {each.tensor}" for each in o.outputs]),
    Field("reads", lambda o: list(o.reads)),
    Field("writes", lambda o: list(o.writes)),
    Field("changes_other_state", lambda o: o.changes_other_state),
)

FUNCTIONS: Description = (
    Field("name", lambda f: f.name, "function"),
    Field("path", lambda f: f.path),
    Field("kind", lambda f: str(f.kind)),
    Field(
        "overloads",
        lambda f: documents(OVERLOADS, f.overloads),
        "inputs and outputs",
        lambda f: "; ".join(map(str, f.overloads)),
    ),
    Field(
        "",
        lambda f: None,
        "writes",
        lambda f: wording.listed(dict.fromkeys(w for o in f.overloads for w in o.writes)),
        drop=1,
    ),
)

OMISSIONS: Description = (
    Field("path", lambda o: o.path, "not served"),
    Field("kind", lambda o: str(o.kind), "kind"),
    Field("reason", lambda o: o.reason, "reason"),
)

VERSIONS: Description = (
    Field("model", lambda v: v.header.model, "model"),
    Field("version", lambda v: v.header.version, ">version"),
    Field("epoch", lambda v: v.header.epoch),
    Field("state", lambda v: None if v.state is None else str(v.state), "state"),
    Field("labels", lambda v: list(v.labels), "labels", lambda v: ", ".join(v.labels)),
    Field(
        "revision",
        lambda v: v.header.revision,
        ">revision",
        lambda v: v.header.revision if v.header.epoch else "",
        drop=1,
    ),
    Field(
        "loadable", lambda v: v.loadable, "in repository", lambda v: "yes" if v.loadable else "no"
    ),
    Field("error", lambda v: v.error, "error"),
)

# ---- what is in it ----

HISTOGRAM: Description = (
    Field("edges", lambda h: h.edges),
    Field("counts", lambda h: h.counts),
    Field("below", lambda h: h.below),
    Field("above", lambda h: h.above),
)


def _bars(summary: Any) -> str:
    histogram = summary.histogram
    if histogram is None:
        return ""
    low, high = histogram.edges[0], histogram.edges[-1]
    return f"{low:.6g} |{histogram}| {high:.6g}"


SUMMARIES: Description = (
    Field("variable", lambda s: s.variable, "variable"),
    Field("variable_revision", lambda s: s.variable_revision),
    Field("dtype", lambda s: tensors.dtype_name(s.dtype), "type", _typed, 2),
    Field("shape", _shape),
    Field("bytes", lambda s: s.nbytes),
    Field("count", lambda s: s.count, ">count", drop=8),
    Field("min", lambda s: s.min, ">min", lambda s: output.number(s.min)),
    Field("max", lambda s: s.max, ">max", lambda s: output.number(s.max)),
    Field("mean", lambda s: s.mean, ">mean", lambda s: output.number(s.mean)),
    Field(
        "standard_deviation",
        lambda s: s.standard_deviation,
        ">std",
        lambda s: output.number(s.standard_deviation),
        1,
    ),
    Field("norm", lambda s: s.norm, ">norm", lambda s: output.number(s.norm), 5),
    Field("zeros", lambda s: s.zeros, ">zeros", drop=4),
    Field("nans", lambda s: s.nans, ">NaN", drop=3),
    Field("infinities", lambda s: s.infinities, ">inf", drop=3),
    Field(
        "histogram",
        lambda s: None if s.histogram is None else document(HISTOGRAM, s.histogram),
        "histogram",
        _bars,
        6,
    ),
    Field("content_hash", lambda s: s.content_hash or None, "hash", lambda s: s.content_hash, 7),
)

# ---- what is inside its functions ----

INNER_TENSORS: Description = (
    Field("name", lambda t: t.name, "name"),
    Field("path", lambda t: t.path),
    Field("op", lambda t: t.op, "op", drop=2),
    Field("dtype", lambda t: tensors.dtype_name(t.dtype), "type", _typed),
    Field("shape", _shape),
    Field("place", lambda t: str(t.place), "where", drop=3),
    Field(
        "variables",
        lambda t: list(t.variables),
        "variables",
        lambda t: wording.listed(t.variables),
        4,
    ),
    Field("source", lambda t: t.source, "source", drop=5),
)

TIMES: Description = (
    Field("name", lambda t: t.name, "operation"),
    Field("op", lambda t: t.op, "op", drop=2),
    Field("runs", lambda t: t.runs, ">runs"),
    Field("seconds", lambda t: t.seconds, ">ms", lambda t: f"{t.seconds * 1e3:.3f}"),
)

MESSAGES: Description = (
    Field("kind", lambda m: str(m.kind)),
    Field("op", lambda m: m.op),
    Field("iteration", lambda m: list(m.iteration)),
    Field("text", lambda m: m.text),
    Field("parts", lambda m: list(m.parts)),
    Field("stream", lambda m: m.stream),
    Field("end", lambda m: m.end),
)

NON_FINITE: Description = (
    Field("name", lambda n: n.name),
    Field("op", lambda n: n.op),
    Field("iteration", lambda n: list(n.iteration)),
    Field("dtype", lambda n: tensors.dtype_name(n.dtype)),
    Field("shape", lambda n: list(n.shape)),
    Field("nans", lambda n: n.nans),
    Field("positive_infinities", lambda n: n.positive_infinities),
    Field("negative_infinities", lambda n: n.negative_infinities),
)

INFO: Description = (
    Field("time", lambda i: i.time.isoformat(), "time", lambda i: output.time(i.time)),
    Field("kind", lambda i: str(i.kind), "kind"),
    Field("subject", lambda i: i.subject, "who", drop=3),
    Field("message", lambda i: i.message),
    Field("request_id", lambda i: i.request_id),
)

COMMITS: Description = (
    Field("revision", lambda c: c.revision, ">revision"),
    *(each.of(lambda commit: commit.info) for each in INFO),
    Field(
        "variables",
        lambda c: list(c.variables),
        "variables",
        lambda c: wording.listed(c.variables, c.variable_count, most=3),
    ),
    Field("variable_count", lambda c: c.variable_count),
    Field("bytes", lambda c: c.nbytes, ">size", lambda c: output.size(c.nbytes), 2),
    Field("", lambda c: c.info.message, "message", drop=1),
)

DIFFERENCES: Description = (
    Field("variable", lambda d: d.variable, "variable"),
    Field(
        "what",
        lambda d: d.what,
        "differs in",
        lambda d: "is not there" if d.what == "absent" else d.what,
    ),
    Field("live", lambda d: d.live, "live", drop=2),
    Field("other", lambda d: d.other, "other", drop=3),
    Field(
        "changed",
        lambda d: None if d.changed < 0 else d.changed,
        ">elements",
        drop=1,
    ),
    Field("largest", lambda d: d.largest, ">largest", lambda d: output.number(d.largest)),
)
