"""What only JAX has: on other backends there is nothing to test."""

from types import SimpleNamespace

import keras

if keras.backend.backend() == "jax":
    import jax

    from videoswin_keras.nn import jax_functions

    def test_what_compilers_free_is_given_back(monkeypatch):
        given = []
        monkeypatch.setattr(jax_functions, "trim", lambda: given.append(True))
        for seconds, times in ((0.5, 0), (2.0, 1)):
            jax_functions.give_back("/jax/core/compile/backend_compile_duration", seconds, fun_name="step")
            assert len(given) == times
        monkeypatch.setattr(jax_functions, "LONG", 0.0)
        jax.jit(lambda x: x + 2)(1.0)
        assert len(given) > 1

    def test_giving_back(monkeypatch):
        jax_functions.trim()  # of the C library that is here
        given = []
        for library in (SimpleNamespace(malloc_trim=given.append), SimpleNamespace()):  # glibc, and another
            monkeypatch.setattr(jax_functions.ctypes, "CDLL", lambda _, library=library: library)
            jax_functions.trim()
        assert given == [0]
