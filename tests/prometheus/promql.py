"""What a PromQL expression asks for: the metric names in it, and the label values that its selectors name.

Called by run.py. Enough of the grammar for the rules and the dashboard, not all of it: a name is a word that is
neither a keyword, nor a function, nor a label in a list of labels.
"""

import re

# What gives words that are no metrics, or none at all.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABEL_LIST = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_WORD = re.compile(r"[a-zA-Z_:][\w:]*(?=\s*(\()?)")
_KEYWORDS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}
# They are followed by a list of labels or by an expression.
_AGGREGATIONS = {"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "stddev", "stdvar", "group"}
# Labels that come from the scrape configuration and the rules, not from the daemon.
_FOREIGN_LABELS = {"job", "instance", "le"}


def metric_names(expression):
    """The names of the metrics in an expression."""
    text = _STRING.sub('""', expression)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", text)
    text = _LABEL_LIST.sub(" ", text)
    # Durations and numbers begin with a digit and may go on with letters.
    text = re.sub(r"(?<![\w:])\d[\w.]*", " ", text)
    return {
        found.group(0)
        for found in _WORD.finditer(text)
        if not found.group(1) and found.group(0).lower() not in _KEYWORDS | _AGGREGATIONS
    }


def label_values(expression):
    """Each (metric, label, value) that a selector of the expression names; alternatives of a pattern one by one."""
    for name, matchers in _SELECTOR.findall(expression):
        for label, _, value in _MATCHER.findall(matchers):
            if label not in _FOREIGN_LABELS:
                for alternative in value.split("|"):
                    yield name, label, alternative
