"""As much of gradio as the page of a Space uses. Events happen when a test says so, and outputs can be looked at.

A script puts it in place of gradio by `sys.modules['gradio'] = stand_in_gradio`.
"""


class Error(Exception):
    """What a visitor is told."""


class Component:
    """What a page shows, or what a function returns to change it."""

    def __init__(self, value=None, **settings):
        self.value, self.settings, self.events = value, settings, {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def preprocess(self, payload):
        return payload

    def change(self, *args, **kwargs):
        return self.events.setdefault('change', Event(*args, **kwargs))

    def input(self, *args, **kwargs):
        return self.events.setdefault('input', Event(*args, **kwargs))

    def set(self, value, event):
        """Do as a visitor does; returns what they are told is wrong."""
        self.value = value
        return self.events[event].happen() if event in self.events else []


class Blocks(Component):
    pass


class Row(Component):
    pass


class Column(Component):
    pass


class Markdown(Component):
    pass


class Label(Component):
    pass


class Plot(Component):
    pass


class Radio(Component):
    def __init__(self, choices=None, value=None, **settings):
        super().__init__(value, choices=choices, **settings)


class Image(Component):
    def preprocess(self, payload):
        if payload == 'no image':
            raise OSError('what Pillow says')
        return payload


class Event:
    def __init__(self, fn, inputs, outputs, **settings):
        self.fn, self.settings, self.after, self.after_success = fn, settings, [], []
        self.inputs, self.outputs = ([] if c is None else c if isinstance(c, list) else [c] for c in (inputs, outputs))

    def then(self, *args, **kwargs):
        self.after.append(Event(*args, **kwargs))
        return self.after[-1]

    def success(self, *args, **kwargs):
        self.after_success.append(Event(*args, **kwargs))
        return self.after_success[-1]

    def happen(self):
        errors, following = [], list(self.after)
        try:
            values = self.fn(*(component.preprocess(component.value) for component in self.inputs))
        except Error as error:
            errors.append(str(error))
        else:
            for component, value in zip(self.outputs, values, strict=True):
                if isinstance(value, Component):
                    component.settings.update(value.settings)
                    value = value.value
                component.value = value
            following += self.after_success
        return errors + [error for event in following for error in event.happen()]
