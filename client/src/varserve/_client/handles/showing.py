"""How handles look in a notebook: what they say of themselves, and for that ask the service.

A picture is never worth a failure: where the service does not answer at once, its reason stands
there instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from varserve._client import errors
from varserve._client.operations.reads import SummaryOptions
from varserve._client.transport.calls import Op
from varserve._client.transport.drivers import Sync

if TYPE_CHECKING:
    from .functions import Function, Functions
    from .models import Model
    from .value import Value
    from .variables import Variable, Variables

_BINS = 40
_SECONDS = 5.0
_MOST_BYTES = 64 << 20
"""A larger value is not summarized for a picture that nobody asked for."""


def variable_html(variable: Variable[Any]) -> str:
    """What a variable is, and how its value is distributed."""
    from varserve._client.values import notebook

    found, note = None, ""
    if not variable.initialized:
        pass
    elif not isinstance(variable._driver, Sync):
        note = "await variable.summary(bins=40) draws its histogram"
    elif variable.nbytes > _MOST_BYTES:
        note = "variable.summary(bins=40) draws its histogram; the value is large"
    else:
        options = SummaryOptions(_BINS, None, False)
        try:
            found = variable._driver.run(variable._summarized(options, None, _SECONDS))
        except errors.VarserveError as error:
            note = error.message
    return notebook.variable(variable.spec, found, note)


def variables_html(variables: Variables[Any]) -> str:
    """The first of a model's variables."""
    from varserve._client.values import notebook

    return notebook.variables([each.spec for each in variables.values()])


def function_html(function: Function[Any]) -> str:
    """What a function takes and gives."""
    from varserve._client.values import notebook

    return notebook.function(function.spec)


def functions_html(functions: Functions[Any]) -> str:
    """The first of a model's functions."""
    from varserve._client.values import notebook

    return notebook.functions([each.spec for each in functions.values()])


def model_html(model: Model[Any]) -> str:
    """What a model is, and the first of its variables."""
    from varserve._client.values import notebook

    facts = {
        "version": model.version,
        "state": model.state,
        "revision": model.revision,
        "device": model.device,
        "functions": ", ".join(list(model.functions)[:5]),
    }
    return notebook.model(model.name, facts, [each.spec for each in model.variables.values()])


def plotted(variable: Value[Any], bins: int, ax: Any, timeout: float | None) -> Op[Any]:
    """The histogram of a value, drawn by matplotlib."""
    from varserve._client.values import plots

    axes = plots.axes(ax)
    options = SummaryOptions(bins, None, False)
    summary = yield from variable._summarized(options, None, timeout)
    return plots.histogram(summary, axes)
