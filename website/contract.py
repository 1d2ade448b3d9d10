"""The reference of the contract, from the comments of its .proto files.

Reads what buf compiles, and writes Markdown: services and their calls, messages and their fields,
enumerations and their values, each with the text that stands above it in the file.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from google.protobuf import descriptor_pb2 as pb

PACKAGE = "varserve.v1"
FIRST = ("model_service", "admin_service", "tensor", "model", "summary", "history", "inspection")
"""In the order in which a reader meets them; then the others, by name."""

_INTRODUCTION = """# Contract reference

Made from the comments in `proto/varserve/v1`. [The gRPC contract](api.md) is the introduction.
"""

_SCALARS = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in pb.FieldDescriptorProto.Type.items()
}

# Field numbers of descriptor.proto, of which the paths of source locations are made.
_MESSAGE, _ENUM, _SERVICE, _FIELD, _NESTED, _NESTED_ENUM, _VALUE, _METHOD = 4, 5, 6, 2, 3, 4, 2, 2
_FILE_COMMENT = (12,)  # above `syntax`

Path_ = tuple[int, ...]


def reference(protos: Path) -> str:
    """Markdown of the whole contract in a folder of .proto files."""
    buf = Path(sys.executable).with_name("buf")
    compiled = subprocess.run(
        [buf, "build", protos, "-o", "-#format=binpb", "--as-file-descriptor-set"],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    files = {file.name: file for file in pb.FileDescriptorSet.FromString(compiled).file}
    first = [f"{PACKAGE.replace('.', '/')}/{name}.proto" for name in FIRST]
    others = sorted(name for name in files if files[name].package == PACKAGE)
    ordered = dict.fromkeys([*first, *others])
    return "\n".join([_INTRODUCTION, *(line for name in ordered for line in _file(files[name]))])


def _file(file: pb.FileDescriptorProto) -> Iterator[str]:
    comments: Mapping[Path_, str] = {
        tuple(each.path): _text(each.leading_comments or each.trailing_comments)
        for each in file.source_code_info.location
    }
    yield f"## {Path(file.name).name}\n"
    yield comments.get(_FILE_COMMENT, "") + "\n"
    for at, service in enumerate(file.service):
        path: Path_ = (_SERVICE, at)
        yield f"### {service.name}\n"
        yield comments.get(path, "") + "\n"
        for number, method in enumerate(service.method):
            yield f"#### {service.name}.{method.name}\n"
            yield (
                f"{_streamed(method.client_streaming)}{_link(method.input_type)} → "
                f"{_streamed(method.server_streaming)}{_link(method.output_type)}\n"
            )
            yield comments.get((*path, _METHOD, number), "") + "\n"
    for at, message in enumerate(file.message_type):
        yield from _message(message, (_MESSAGE, at), "", comments)
    for at, enum in enumerate(file.enum_type):
        yield from _enum(enum, (_ENUM, at), "", comments)


def _message(
    message: pb.DescriptorProto, path: Path_, outer: str, comments: Mapping[Path_, str]
) -> Iterator[str]:
    if message.options.map_entry:
        return
    name = f"{outer}{message.name}"
    yield f"### {name}\n"
    yield comments.get(path, "") + "\n"
    rows = []
    for at, field in enumerate(message.field):
        choice = ""
        if field.HasField("oneof_index") and not field.proto3_optional:
            choice = f"one of `{message.oneof_decl[field.oneof_index].name}`"
        kind = " ".join(part for part in (_label(field), _type(field, message), choice) if part)
        rows.append((f"`{field.name}`", kind, comments.get((*path, _FIELD, at), "")))
    yield from _table(("field", "type", "meaning"), rows)
    for at, nested in enumerate(message.nested_type):
        yield from _message(nested, (*path, _NESTED, at), f"{name}.", comments)
    for at, enum in enumerate(message.enum_type):
        yield from _enum(enum, (*path, _NESTED_ENUM, at), f"{name}.", comments)


def _enum(
    enum: pb.EnumDescriptorProto, path: Path_, outer: str, comments: Mapping[Path_, str]
) -> Iterator[str]:
    yield f"### {outer}{enum.name}\n"
    yield comments.get(path, "") + "\n"
    yield from _table(
        ("value", "number", "meaning"),
        [
            (f"`{value.name}`", str(value.number), comments.get((*path, _VALUE, at), ""))
            for at, value in enumerate(enum.value)
        ],
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if not rows:
        return
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        cells = [re.sub(r"\s*\n\s*", " ", cell).replace("|", "\\|") for cell in row]
        yield f"| {' | '.join(cells)} |"
    yield ""


def _label(field: pb.FieldDescriptorProto) -> str:
    if field.label == pb.FieldDescriptorProto.LABEL_REPEATED:
        return "repeated"
    return "optional" if field.proto3_optional else ""


def _type(field: pb.FieldDescriptorProto, message: pb.DescriptorProto) -> str:
    if not field.type_name:
        return _SCALARS[field.type]
    short = field.type_name.rpartition(".")[2]
    for nested in message.nested_type:
        if nested.name == short and nested.options.map_entry:
            key, value = nested.field
            return f"map of {_type(key, nested)} to {_type(value, nested)}"
    return _link(field.type_name)


def _link(type_name: str) -> str:
    name = type_name.removeprefix(f".{PACKAGE}.")
    anchor = re.sub(r"[^\w-]", "", name.lower())
    return f"[{name}](#{anchor})" if name != type_name else f"`{type_name.lstrip('.')}`"


def _streamed(stream: bool) -> str:
    return "stream of " if stream else ""


def _text(comment: str) -> str:
    """A comment as Markdown: names of constants and fields with underscores are code."""
    lines = [line.removeprefix(" ").rstrip() for line in comment.strip("\n").split("\n")]
    text = "\n".join(lines).replace("<", "&lt;")
    return re.sub(r"(?<![`\w])([A-Za-z]+(?:_[A-Za-z0-9]+)+)(?![`\w])", r"`\1`", text)
