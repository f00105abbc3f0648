"""A subject of the fuzzing, and the judgement of one case of it."""

import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from ignpx import InvalidArgumentError, UnlearningError, UnlearningWarning

# Values that no argument expects, or that one nearly expects.
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([-(2**70), 2**31, 2**32, 2**63, 2**64, 10**400, 10**9]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-320, 1e308, 0.5, 1.0]),
    st.text(max_size=6),
    st.sampled_from(["", "1", "1e-3", "nan", "true", "adam", "0", "[1]", "\x00", "ünï", "a\nb"]),
    st.lists(st.integers(-1, 9) | st.text(max_size=2) | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(-1, 3) | st.none(), max_size=2),
    st.just(object()),
    st.just(b"bytes"),
    st.sampled_from([1j, {1, 2}, (), ((),), [[0, 1]], (0.5, 0.1), (0.1, 0.5), float, len]),
)


class Subject(NamedTuple):
    """What is fuzzed.

    Attributes:
      name: as the results list it.
      share: of all cases.
      cases: draws them.
      run: gives a case to the package, and asserts that what comes back is right. A case that
        has to be refused makes it raise `AcceptedError` where it is not.
    """

    name: str
    share: float
    cases: st.SearchStrategy[Any]
    run: Callable[[Any], None]


class AcceptedError(AssertionError):
    """What has to be refused was accepted."""


class UnclearError(AssertionError):
    """An error that does not name the argument, or is longer than a few lines."""


def judge(subject: Subject, case: Any) -> str:
    """`valid` or `refused`; whatever else comes of a case is raised.

    NumPy's and JAX's warnings are errors here: a result that they speak of is not sound.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnlearningWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            subject.run(case)
        except InvalidArgumentError as error:
            said = str(error)
            # A name, the value and a piece of advice; what is quoted may have lines of its own.
            # Fields of a config have the names that its author gave them.
            if not re.match(r"(?s).*=.+: .+", said) or len(said) > 2500:
                raise UnclearError(said[:300]) from error
            return "refused"
        except UnlearningError:
            return "refused"
    return "valid"
