#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Finds the functions of a C++ file, without a compiler: their names, lines and numbers of parameters.

    python3 tests/structure/cxx_functions.py FILE...    prints what it finds, the longest last

A function is what is declared in a namespace or a class. Lambdas and classes inside a function are lines of that function.
What a macro expands to is not seen.
"""
import re
import sys
from collections import namedtuple

Token = namedtuple("Token", "kind text line")
# `first` and `last` are lines; `body` is false for a declaration, `local` true inside the body of another function.
Function = namedtuple("Function", "name first last parameters words body local")

SCANNER = re.compile(r"""
    (?P<space>[ \t\r\f\v]+|\\\r?\n)
  | (?P<newline>\n)
  | (?P<comment>//(?:[^\\\n]|\\\r?\n|\\.)*|/\*.*?\*/)
  | (?P<raw>(?:u8|[uUL])?R"(?P<mark>[^()\\\s]{0,16})\(.*?\)(?P=mark)")
  | (?P<string>(?:u8|[uUL])?"(?:[^"\\\n]|\\.)*")
  | (?P<char>(?:u8|[uUL])?'(?:[^'\\\n]|\\.)+')
  | (?P<number>\.?[0-9](?:[eEpP][+-]|'?[0-9A-Za-z_.])*)
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<sign>::|->|\.\.\.|&&|\|\||[-+*/%&|^!=]=|\#\#|.)
""", re.X | re.S)
DIRECTIVE = re.compile(r"""\#(?:/\*.*?\*/|//(?:[^\\\n]|\\.)*|\\\r?\n|[^\n])*""", re.S)
BRACKETS = {"(": ")", "[": "]", "{": "}"}
# Words before a parenthesis that do not name a function.
NO_NAMES = frozenset("""
    alignas alignof asm auto bool catch char char16_t char32_t char8_t const constexpr decltype double explicit float
    for if int long noexcept requires return short signed sizeof static_assert switch throw typeid unsigned void volatile
    while wchar_t _Pragma __attribute__ __declspec __launch_bounds__
    """.split())
CLASSES = ("class", "struct", "union")
MACRO = re.compile(r"[A-Z][A-Z0-9]*_[A-Z0-9_]*$")


class Unreadable(Exception):
    """The file is not what this reader takes it for."""

    def __init__(self, line, what):
        super().__init__(what)
        self.line, self.what = line, what


def tokens_of(text):
    """All tokens but comments; a directive of the preprocessor is one of the kind `directive`."""
    out, at, line, fresh = [], 0, 1, True
    while at < len(text):
        match = None
        if fresh and text[at] == "#":
            match, kind = DIRECTIVE.match(text, at), "directive"
        else:
            match = SCANNER.match(text, at)
            kind = next(k for k, v in match.groupdict().items() if v is not None)  # groups stand in order
        piece = match.group()
        if kind == "newline":
            fresh = True
        elif kind not in ("space", "comment"):
            fresh = kind == "directive"
            out.append(Token({"raw": "string", "char": "string"}.get(kind, kind), piece, line))
        line += piece.count("\n")
        at = match.end()
    return out


def directive_name(token):
    """`if` of `#if`, say."""
    return re.match(r"#\s*(\w*)", token.text).group(1)


def code_of(tokens):
    """The tokens without directives. Where branches of an #if open or close brackets, only the first counts."""
    out, _ = branch(tokens, 0)
    return out


def branch(tokens, at):
    out = []
    while at < len(tokens):
        token = tokens[at]
        if token.kind != "directive":
            out.append(token)
        elif directive_name(token) in ("if", "ifdef", "ifndef"):
            branches, never = [], re.match(r"#\s*if\s+0\s*$", token.text)
            while True:
                body, at = branch(tokens, at + 1)
                branches.append(body)
                if at >= len(tokens) or directive_name(tokens[at]) == "endif":
                    break
            if never:
                branches = branches[1:]
            if not all(balanced(b) for b in branches):
                branches = branches[:1]
            for body in branches:
                out.extend(body)
        elif directive_name(token) in ("else", "elif", "elifdef", "elifndef", "endif"):
            return out, at
        at += 1
    return out, at


def balanced(tokens):
    return all(sum(t.text == a for t in tokens) == sum(t.text == b for t in tokens) for a, b in BRACKETS.items())


class Reader:
    def __init__(self, text):
        self.tokens = code_of(tokens_of(text))
        self.text = [t.text if t.kind != "string" else '""' for t in self.tokens]
        self.match = self.pair_brackets()
        self.found = []
        self.scope(0, len(self.tokens), [], False)

    def pair_brackets(self):
        match, open_at = {}, []
        for i, text in enumerate(self.text):
            if text in BRACKETS:
                open_at.append(i)
            elif text in BRACKETS.values():
                if not open_at or BRACKETS[self.text[open_at[-1]]] != text:
                    raise Unreadable(self.tokens[i].line, f"{text} closes nothing")
                match[open_at.pop()] = i
        if open_at:
            raise Unreadable(self.tokens[open_at[-1]].line, f"{self.text[open_at[-1]]} is never closed")
        return match

    def word(self, i):
        return 0 <= i < len(self.tokens) and self.tokens[i].kind == "word"

    def close_angle(self, i, end):
        """The > of the < at i, or None where that is a comparison."""
        depth = 0
        while i < end:
            text = self.text[i]
            if text == "<":
                depth += 1
            elif text in (">", ">="):
                depth -= 1
                if depth == 0:
                    return i
            elif text in BRACKETS:
                i = self.match[i]
            elif text == ";":
                return None
            i += 1
        return None

    def after_constraint(self, i, end):
        """Past the constraint of a requires clause that begins at i."""
        while i < end:
            while self.text[i] == "!":
                i += 1
            if self.text[i] == "requires":  # an expression
                i += 1
                if self.text[i] == "(":
                    i = self.match[i] + 1
                i = self.match[i] + 1
            elif self.text[i] == "(":
                i = self.match[i] + 1
            else:
                i = self.after_name(i, end)
            if i >= end or self.text[i] not in ("&&", "||", "and", "or"):
                return i
            i += 1
        return i

    def after_name(self, i, end):
        """Past a name such as A::B<C>::value."""
        expects = True
        while i < end:
            if self.text[i] == "::":
                expects = True
            elif expects and self.tokens[i].kind in ("word", "number"):
                expects = self.text[i] in ("template", "typename")
            elif self.text[i] == "<" and not expects:
                i = self.close_angle(i, end) or i
            else:
                return i
            i += 1
        return i

    def scope(self, i, end, path, local):
        while i < end:
            i = self.declaration(i, end, path, local)

    def declaration(self, start, end, path, local):
        """Reads one declaration of a namespace or class; returns what follows it."""
        text = self.text
        if text[start] == ";" or text[start] == ":":
            return start + 1
        if text[start] in ("public", "private", "protected"):
            return start + 1
        if MACRO.match(text[start]) and start + 1 < end and text[start + 1] == "(":
            after = self.match[start + 1] + 1
            if after >= end or text[after] not in ("{", ":", ";"):
                return after
        kind = None  # the word that says it declares a namespace, enumeration or class
        kind_at = None
        class_name = None
        name, params = None, None
        initialises = False  # members, between ) : and {
        angles = {}  # where each > of the head began
        i = start
        while i < end:
            t = text[i]
            if t == "template" and i + 1 < end and text[i + 1] == "<":
                i = self.close_angle(i + 1, end)
                if i is None:
                    raise Unreadable(self.tokens[start].line, "a template's parameters do not end")
            elif t == "requires":
                i = self.after_constraint(i + 1, end) - 1
            elif t == "operator" and params is None:
                i, name = self.operator_name(i, end)
                params = i
                i = self.match[i]
            elif t == "namespace" and kind is None and params is None:
                kind = t
            elif t == "enum" and kind is None and params is None:
                kind = t
            elif t in CLASSES and kind is None and params is None:
                kind, kind_at = t, i
            elif t == "[":
                i = self.match[i]
            elif t == "<" and (self.word(i - 1) or params is not None):
                close = self.close_angle(i, end)
                if close is not None:
                    angles[close] = i
                    i = close
            elif t == "(":
                if params is None and class_name is None:
                    name = self.name_before(i, start, angles)
                    if name is not None:
                        params = i
                i = self.match[i]
            elif t == ":":
                if params is not None:
                    initialises = True
                elif kind in CLASSES and class_name is None:
                    class_name = self.class_name(kind_at, i)
            elif t == ";":
                self.declared(start, i, params, name, path, local)
                return i + 1
            elif t == "=":
                self.declared(start, i, params, name, path, local)
                return self.after_initialiser(start, i, end, params, path, local)
            elif t == "{":
                close = self.match[i]
                if kind == "namespace" or (text[i - 1] == '""' and text[i - 2] == "extern"):
                    self.scope(i + 1, close, path, local)
                    return close + 1
                if params is not None:
                    if not (initialises and (self.word(i - 1) or i - 1 in angles)):
                        return self.defined(start, params, name, i, path, local, end)
                elif kind in CLASSES:
                    inner = class_name or self.class_name(kind_at, i)
                    self.scope(i + 1, close, path + [inner] if inner else path, local)
                    kind = "read"
                i = close
            i += 1
        return end

    def operator_name(self, i, end):
        """Of an operator at i: where its parameters begin, and its name."""
        begin = i
        i += 1
        if self.text[i] == "(":
            i = self.match[i] + 1
        while i < end and self.text[i] != "(":
            if self.text[i] == "<" and self.word(i - 1) and i - 1 != begin:
                i = self.close_angle(i, end) or i
            i += 1
        if i >= end:
            raise Unreadable(self.tokens[begin].line, "an operator has no parameters")
        words = self.text[begin + 1:i]
        name = "operator"
        for k, word in enumerate(words):
            space = word[0].isalpha() and (k == 0 or words[k - 1][-1].isalnum())
            name += " " + word if space else word
        return i, name

    def name_before(self, i, start, angles):
        """The name whose parameters the parenthesis at i may hold, or None."""
        if self.text[i + 1] in ("*", "&", "&&"):  # a pointer to a function
            return None
        parts, k = [], i - 1
        if k in angles:
            k = angles[k] - 1
        while k >= start and self.word(k):
            if self.text[k] in NO_NAMES:
                return None
            part = self.text[k]
            k -= 1
            if k >= start and self.text[k] == "~":
                part = "~" + part
                k -= 1
            parts.append(part)
            if k < start or self.text[k] != "::":
                break
            k -= 1
            if k in angles:
                k = angles[k] - 1
        return "::".join(reversed(parts)) if parts else None

    def class_name(self, kind_at, end):
        i, name = kind_at + 1, None
        while i < end:
            if self.text[i] in BRACKETS:
                i = self.match[i]
            elif self.text[i] == "<":
                i = self.close_angle(i, end) or i
            elif self.word(i) and self.text[i] not in ("final", "alignas", "__attribute__", "__declspec"):
                name = self.text[i]
            i += 1
        return name

    def after_initialiser(self, start, i, end, params, path, local):
        """Past the ; that ends what is initialised at i. A lambda that has a name there is a function."""
        if params is None and i + 1 < end and self.text[i + 1] == "[":
            k = self.match[i + 1] + 1
            if self.text[k] == "<":
                k = self.close_angle(k, end) + 1
            opened = k if self.text[k] == "(" else None
            while self.text[k] not in ("{", ";"):
                k = self.match[k] + 1 if self.text[k] in BRACKETS else k + 1
            if self.text[k] == "{" and self.word(i - 1):
                self.defined(start, opened, self.text[i - 1], k, path, local, end)
        while i < end and self.text[i] != ";":
            i = self.match[i] + 1 if self.text[i] in BRACKETS else i + 1
        return i + 1

    def declared(self, start, last, params, name, path, local):
        if params is not None:
            self.add(start, params, name, last, path, False, local)

    def defined(self, start, params, name, brace, path, local, end):
        close = self.match[brace]
        self.local_classes(brace + 1, close, path + [name])
        while close + 2 < end and self.text[close + 1] == "catch":  # of a body that is a try block
            close = self.match[self.match[close + 2] + 1]
        self.add(start, params, name, close, path, True, local)
        return close + 1

    def local_classes(self, i, end, path):
        while i < end:
            if self.text[i] in CLASSES and self.text[i - 1] not in ("<", ",", "enum", "friend"):
                brace = i
                while brace < end and self.text[brace] not in ("{", ";", "(", ")", "=", "*", "&"):
                    brace += 1
                if brace < end and self.text[brace] == "{":
                    colon = next((k for k in range(i, brace) if self.text[k] == ":"), brace)
                    inner = self.class_name(i, colon)
                    self.scope(brace + 1, self.match[brace], path + [inner] if inner else path, True)
                    i = self.match[brace]
            i += 1

    def add(self, start, params, name, last, path, body, local):
        count, words = 0, []
        if params is not None:
            count, words = self.parameters(params)
        self.found.append(Function("::".join(path + [name]), self.tokens[start].line, self.tokens[last].line, count, words,
                                   body, local))

    def parameters(self, opened):
        """How many parameters a list has, and the last word of each before its default: its name."""
        close = self.match[opened]
        inside = self.text[opened + 1:close]
        if not inside or inside == ["void"]:
            return 0, []
        words, last, default, i = [], None, False, opened + 1
        while i < close:
            t = self.text[i]
            if t == ",":
                words.append(last)
                last, default = None, False
            elif t == "=":
                default = True
            elif t in BRACKETS:
                i = self.match[i]
            elif t == "<" and self.word(i - 1):
                angle = self.close_angle(i, close)
                i = i if angle is None else angle
            elif self.word(i) and not default:
                last = t
            i += 1
        words.append(last)
        return len(words), words


def functions_of(text):
    return Reader(text).found


def main():
    found = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            found += [(f, path) for f in functions_of(file.read())]
    for f, path in sorted(found, key=lambda pair: pair[0].last - pair[0].first):
        print(f"{f.last - f.first + 1:4} lines {f.parameters:2} parameters  {f.name}  {path}:{f.first}-{f.last}"
              + ("" if f.body else "  declared") + ("  local" if f.local else ""))


if __name__ == "__main__":
    main()
