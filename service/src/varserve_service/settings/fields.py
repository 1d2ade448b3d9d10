"""Every setting: what it is called, what it may be, and what it is where nobody says."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from varserve_service.addresses import UNIX
from varserve_service.core.model.registry import LABEL_PATTERN

from .sources import Environment, YamlFile
from .tables import DECADE, GIB, MIB, MOST, Batching, Bounds, Loading, Verb, VerbLimit, Xla

DENIED_OPERATIONS = ("@files", "@python", "@network")
"""Operations that reach beyond the model itself, by default."""


_BESIDE = {
    "repository_poll": "model_repository",
    "repository_marker": "model_repository",
    "state_reset": "state_dir",
    "state_restored": "state_dir",
    "connection_grace": "max_connection_age",
    "lane_uids": "lane_socket",
    "jwt_jwks_ca": "jwt_jwks",
    "metrics_client_ca": "metrics_port",
}
"""Settings that are about another one, which is declared before them."""


class Settings(BaseSettings):
    """All settings of `varserve-service serve`. Sizes are in bytes, times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="VARSERVE_", extra="forbid", frozen=True, protected_namespaces=()
    )

    models: dict[str, Path] = Field(
        default_factory=dict, description="models by name and path of the SavedModel"
    )
    model_repository: Path | None = Field(
        None, description="folder of NAME/VERSION/saved_model.pb; the highest version is served"
    )
    labels: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="by model and label: the version that is loaded for it"
    )
    repository_poll: float = Field(
        0.0,
        ge=0,
        le=DECADE,
        description="seconds between looks for new versions in the repository; 0: none",
    )
    repository_marker: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]*$",
        description="name of a file that says that a version is complete; unset: its files do",
    )
    switch_order: Literal["auto", "new_first", "old_first"] = Field(
        "auto", description="load a new version before the old one goes, where memory allows both"
    )
    drain: float = Field(
        20.0, ge=0, le=DECADE, description="seconds that calls of a version get when it is unloaded"
    )
    allowed_models: Path | None = Field(
        None, description="file of sha256sum: the SavedModels that may be loaded; unset: all"
    )
    allowed_operations: tuple[str, ...] = Field(
        (), description="operations that a SavedModel may have; none given: all but the denied ones"
    )
    denied_operations: tuple[str, ...] = Field(
        DENIED_OPERATIONS,
        description="operations that a SavedModel may not have; @files, @python, @network: all of "
        "a kind; -NAME: all but this one",
    )
    save_dir: Path | None = Field(
        None, description="folder that models are saved below; unset: none can be saved"
    )
    admin_port: int | None = Field(
        None, ge=0, le=65535, description="port of AdminService; 0 picks a free one; unset: none"
    )
    admin_host: str = Field("127.0.0.1", description="address of AdminService")
    host: str = Field("127.0.0.1", description="address to listen on, or unix:PATH of a socket")
    port: int = Field(8500, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    lane_socket: Path | None = Field(
        None,
        description="Unix socket where clients of this host get and give the memory of large "
        "values; unset: none",
    )
    lane_uids: tuple[int, ...] = Field(
        (), description="user ids that may connect to it, beside root and that of the service"
    )
    lane_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port where large values go to other hosts, beside gRPC; unset: none",
    )
    health_port: int | None = Field(
        None, ge=0, le=65535, description="port where health alone is answered, in plaintext"
    )
    tls_cert: Path | None = Field(None, description="PEM file: the certificate, then its chain")
    tls_key: Path | None = Field(
        None, validate_default=True, description="PEM file: the certificate's key"
    )
    tls_client_ca: Path | None = Field(
        None, description="PEM file: who connects must show a certificate of these authorities"
    )
    insecure: bool = Field(
        False,
        validate_default=True,
        description="listen in plaintext on an address that is not loopback",
    )
    token_file: Path | None = Field(
        None, description="YAML file: who has which bearer token, by its SHA-256"
    )
    jwt_issuer: str | None = Field(None, min_length=1, description="who must have made a JWT")
    jwt_audience: str | None = Field(None, min_length=1, description="whom a JWT must be for")
    jwt_jwks: str | None = Field(
        None, validate_default=True, description="file or https address of the keys of JWTs"
    )
    jwt_jwks_ca: Path | None = Field(
        None, description="PEM file: who vouches for that address; unset: as the system says"
    )
    jwt_algorithms: tuple[str, ...] = Field(
        ("RS256", "ES256"), description="how JWTs may be signed"
    )
    policy: Path | None = Field(
        None, description="YAML file: who may do what; unset: everybody everything"
    )
    audit_log: Path | None = Field(
        None, description="file that a line of JSON is added to for every write and denial"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|gpu:\d+)$", description="auto, cpu or gpu:N")
    gpu_memory_limit: int | None = Field(
        None, ge=1, description="MiB of GPU memory to take at most; unset: as needed"
    )
    facade: tuple[Literal["oip", "tfs"], ...] = Field(
        (),
        description="foreign protocols to answer: oip, Open Inference; tfs, TensorFlow Serving",
    )
    facade_message_bytes: int = Field(
        64 << 20, ge=1 << 16, le=1 << 30, description="of one message of a foreign protocol"
    )
    reflection: bool = Field(False, description="answer gRPC reflection")
    threads_per_model: int = Field(8, ge=1, description="calls of one model that run at once")
    max_pending_calls: int = Field(
        256, ge=1, description="calls of one model that run or wait at once"
    )
    max_body_bytes: int = Field(8 * GIB, ge=1, description="largest body of one streaming request")
    max_staging_bytes: int = Field(
        16 * GIB, ge=1, description="bytes of all bodies that are arriving at once"
    )
    max_transfer_silence: float = Field(
        60.0,
        gt=0,
        le=DECADE,
        description="seconds without progress after which an upload or download is given up",
    )
    min_transfer_rate: int = Field(
        64 << 10,
        ge=1,
        description="bytes a second that an upload or download must move on average after that",
    )
    max_streams: int = Field(
        256,
        ge=1,
        le=MOST,
        description="calls of one connection that are open at once; more wait their turn",
    )
    max_connections: int = Field(
        4096,
        ge=1,
        le=MOST,
        description="connections that are open at once; further ones are closed at once. "
        "Half of the file descriptors at most",
    )
    max_connection_idle: float = Field(
        300.0, gt=0, le=DECADE, description="seconds after which a connection without a call ends"
    )
    max_connection_age: float | None = Field(
        None,
        gt=0,
        le=DECADE,
        description="seconds after which clients are to connect anew; unset: never",
    )
    connection_grace: float | None = Field(
        None, gt=0, le=DECADE, description="seconds that calls of such a connection get; unset: any"
    )
    memory_limit: int | None = Field(
        None, ge=1, description="bytes of host memory to take; unset: what the system gives"
    )
    memory_reserve: int = Field(
        256 * MIB, ge=0, description="bytes of host memory that no request may take"
    )
    limits: dict[Verb, VerbLimit] = Field(
        default_factory=dict, description="by verb: calls and bytes in progress at once"
    )
    batching: dict[str, dict[str, Batching]] = Field(
        default_factory=dict, description="by model and function: run small calls as one"
    )
    input_bounds: dict[str, dict[str, dict[str, Bounds]]] = Field(
        default_factory=dict,
        description="by model, function and input: refuse other inputs before TensorFlow sees them",
    )
    xla: dict[str, dict[str, Xla]] = Field(
        default_factory=dict, description="by model and function: compile with XLA at the start"
    )
    loading: dict[str, Loading] = Field(
        default_factory=dict, description="by model: tags of its graph, and libraries of operations"
    )
    print_to_stderr: bool = Field(
        False, description="write what functions print to the service's own streams"
    )
    inspection_bytes: int = Field(
        256 * MIB, ge=0, description="bytes of the inner tensors that one inspection may give"
    )
    inspection_operations: int = Field(
        5_000_000, ge=1, description="operations that one inspection may execute"
    )
    warm_up: bool = Field(
        False, description="before ready, run every function that changes nothing on zeros"
    )
    warm_up_requests: Path | None = Field(
        None, description="before ready, run a file's requests: one RunFunctionRequest a line, JSON"
    )
    state_dir: Path | None = Field(
        None, description="folder that keeps the state; unset: a restart begins anew"
    )
    state: str | None = Field(
        None,
        repr=False,
        pattern=r"^postgres(ql)?://",
        description="postgresql://... of the database that keeps the state of all replicas; "
        "instead of state_dir",
    )
    state_reset: bool = Field(
        False, description="move a kept state that is refused aside and begin anew"
    )
    state_restored: bool = Field(
        False, description="the state is an older copy: go on with it in a new epoch"
    )
    state_check: float = Field(
        600.0,
        ge=0,
        le=DECADE,
        description="seconds until replicas compare the hashes of their values again; 0: never",
    )
    state_lag: float = Field(
        10.0,
        ge=0,
        le=DECADE,
        description="seconds that a replica may be behind the database and health says SERVING; "
        "0: any",
    )
    state_commit_bytes: int = Field(
        2**30,
        ge=1,
        description="bytes of values that one commit may have where replicas share a state",
    )
    history_commits: int = Field(10_000, ge=1, description="commits of a model that are kept")
    history_bytes: int = Field(
        256 * MIB, ge=1, description="bytes of values of a model's commits that are kept"
    )
    request_ids: int = Field(
        10_000, ge=1, le=MOST, description="writes of a model whose request_id is remembered"
    )
    request_id_age: float = Field(
        86_400.0, gt=0, le=DECADE, description="seconds that a write's request_id is remembered"
    )
    grace: float = Field(
        20.0, ge=0, le=DECADE, description="seconds that calls in progress get at shutdown"
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="port of the metrics for Prometheus; unset: none"
    )
    metrics_client_ca: Path | None = Field(
        None,
        description="PEM file: who scrapes must show a certificate of these authorities; unset: "
        "tls_client_ca",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level that is logged"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto is text on a terminal and JSON elsewhere"
    )
    call_log_level: Literal["debug", "info", "warning", "error"] = Field(
        "debug",
        description="level of the line for each call; for a refused one info at least, but not for "
        "a write whose condition did not hold",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_empty_text(cls, value: Any, info: ValidationInfo) -> Any:
        # As a path it would be the working folder, for a variable that was left empty for example.
        if value == "" and info.field_name != "repository_marker":
            raise ValueError("expected a value; leave it out for the default")
        return value

    @field_validator(*_BESIDE)
    @classmethod
    def _does_something(cls, value: Any, info: ValidationInfo) -> Any:
        # A setting without effect is a mistake.
        beside = _BESIDE[info.field_name or ""]
        if value and info.data.get(beside) is None:
            raise ValueError(f"expected {beside} beside it")
        return value

    @field_validator("state")
    @classmethod
    def _one_home(cls, state: str | None, info: ValidationInfo) -> str | None:
        if state is not None and info.data.get("state_dir") is not None:
            raise ValueError("expected state or state_dir, and not both")
        return state

    @field_validator("host", "admin_host")
    @classmethod
    def _address(cls, host: str) -> str:
        if host.removeprefix(UNIX) == "":
            raise ValueError("expected unix:PATH")
        # As in an URL: [::1].
        return host[1:-1] if host.startswith("[") and host.endswith("]") else host

    @field_validator("tls_key", "tls_client_ca", "metrics_client_ca")
    @classmethod
    def _beside_a_certificate(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        certificate = info.data.get("tls_cert")
        if path is not None and certificate is None:
            raise ValueError("expected tls_cert beside it")
        if path is None and certificate is not None and info.field_name == "tls_key":
            raise ValueError("expected the key of tls_cert")
        return path

    @field_validator("insecure")
    @classmethod
    def _plaintext_is_for_loopback(cls, insecure: bool, info: ValidationInfo) -> bool:
        hosts = [info.data.get(name, "127.0.0.1") for name in ("host", "admin_host")]
        host = next((each for each in hosts if not _is_loopback(each)), "127.0.0.1")
        if info.data.get("tls_cert") is None and not insecure and not _is_loopback(host):
            raise ValueError(
                f"plaintext on {host}, which is not loopback: give tls_cert and tls_key, or "
                "insecure where something else keeps others off (--insecure)"
            )
        return insecure

    @field_validator("jwt_jwks")
    @classmethod
    def _jwt_is_whole(cls, jwks: str | None, info: ValidationInfo) -> str | None:
        names = ("jwt_issuer", "jwt_audience")
        missing = [name for name in names if info.data.get(name) is None]
        if jwks is not None and missing:
            raise ValueError(f"expected {' and '.join(missing)} beside it")
        if jwks is None and len(missing) < len(names):
            raise ValueError("expected where the keys of JWTs are")
        return jwks

    @field_validator("labels")
    @classmethod
    def _labels(cls, labels: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        for model, versions in labels.items():
            for label in versions:
                if not LABEL_PATTERN.fullmatch(label):
                    raise ValueError(
                        f"label {label!r} of model {model!r}: expected small letters, digits, '-' "
                        "and '_', a letter first, at most 32"
                    )
        return labels

    @property
    def network_host(self) -> str:
        """Where the ports listen that are beside the one for calls: never on a Unix socket."""
        return "127.0.0.1" if self.host.startswith(UNIX) else self.host

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file: no `.env`, no secrets folder."""
        file = settings_cls.model_config.get("yaml_file")
        environment = Environment(settings_cls)
        if file is None:
            return init_settings, environment
        return init_settings, environment, YamlFile(settings_cls, file)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.startswith(UNIX):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
