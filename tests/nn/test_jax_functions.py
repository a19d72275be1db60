"""What only JAX has: on other backends there is nothing to test."""

import keras

if keras.backend.backend() == "jax":
    import jax

    from videoswin_keras.nn import jax_functions

    def test_what_compilers_free_is_given_back(monkeypatch):
        given = []
        monkeypatch.setattr(jax_functions, "trim", lambda: given.append(True))
        jax.jit(lambda x: x + 1)(1.0)
        assert not given  # as it took no time
        monkeypatch.setattr(jax_functions, "LONG", 0.0)
        jax.jit(lambda x: x + 2)(1.0)
        assert given

    def test_giving_back():
        jax_functions.trim()
