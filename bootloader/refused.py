"""The one exception for content that breaks a rule; its argument is the reason code on the wire."""


class Refused(Exception):
    pass
