"""What rdistill uses of NumPy that it does not document is there."""

from __future__ import annotations

import pickle
import pickletools

import numpy as np

from rdistill._compat.numpy import pickled_functions


def test_numpys_functions_are_those_of_its_pickles() -> None:
    named = {name: function for function, name in pickled_functions()}
    assert len(named) == 4 and all(map(callable, named.values()))
    for value in (np.float64(1.5), np.arange(3)):
        texts = [argument for _, argument, _ in pickletools.genops(pickle.dumps(value, 2)) if isinstance(argument, str)]
        assert any(text.replace(" ", ".") in named for text in texts), texts
