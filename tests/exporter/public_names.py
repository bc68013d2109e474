"""The public classes and functions of a module of Keras, for tables of what is allowed."""


def public_names(module, without):
    """The names of what can be called, without some; fails where a module has hardly any."""
    names = [
        name
        for name, value in vars(module).items()
        if callable(value) and name[0] != "_" and name not in without
    ]
    assert len(names) > 3
    return names
