"""The inspector: pages that show what a service's models hold, and how it changes.

Owns HTTP and HTML. It is a client like any other: it knows the service by `varserve.aio` alone, and
hands on the credentials of whoever looks. Needs `pip install "varserve[web]"`.
"""

from varserve.web.app import WebOptions, make_app
from varserve.web.serving import serve

__all__ = ["WebOptions", "make_app", "serve"]
