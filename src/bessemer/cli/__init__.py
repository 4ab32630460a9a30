"""The verbs: `bessemer VERB --help`. A thin face over `app`; only `up` and `demo` start servers."""

__all__ = ["main"]
