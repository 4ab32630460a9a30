"""Small functions to write, with unit tests: prompts for code that is judged by running it.

Each has a task, tests, and a solution that is not in the dataset; a test of ours runs every one.

    >>> build(Path("python-puzzles"))["prompts"]                              # doctest: +SKIP
    45
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from bessemer.data.corpus import split_of, split_order
from bessemer.data.dataset import Row, write_dataset
from bessemer.data.prompts import Prompt
from bessemer.data.shapes import PROMPTS

NAME = "python-puzzles"
LICENCE = "CC0-1.0"


class Puzzle(NamedTuple):
    """A function to write.

    Attributes:
        signature: `name(arguments)`.
        task: what it must do, as a sentence that follows the signature.
        solution: what its body returns, an expression.
        tests: arguments and result, as Python: `2, 3 -> 5`.
    """

    signature: str
    task: str
    solution: str
    tests: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.signature.partition("(")[0]

    @property
    def code(self) -> str:
        """A right answer."""
        return f"def {self.signature}:\n    return {self.solution}\n"

    @property
    def asserts(self) -> list[str]:
        """The unit tests."""
        pairs = (test.rpartition(" -> ") for test in self.tests)
        return [f"assert {self.name}({asked}) == {wanted}" for asked, _, wanted in pairs]


def build(folder: Path) -> dict[str, Any]:
    """Make the dataset in `folder`; returns what dataset.json holds."""
    rows = [Row(split_of(puzzle.name), _prompt(puzzle), "made") for puzzle in PUZZLES]
    rows.sort(key=lambda row: split_order(str(row.example.as_line())))
    return write_dataset(
        folder,
        rows,
        [{"id": "made", "source": NAME, "licence": LICENCE}],
        {
            "name": NAME,
            "licence": LICENCE,
            "made_from": "nothing: written for this dataset",
            "made_by": "tasks and unit tests by hand; a solution passes each of them",
            "split_by": "SHA-256 of the function's name, 90/5/5",
        },
        PROMPTS,
    )


def _prompt(puzzle: Puzzle) -> Prompt:
    asked = (
        f"Write the Python function `{puzzle.signature}`. {puzzle.task}"
        " Answer with one block of Python code."
    )
    messages = [{"role": "user", "content": asked}]
    return Prompt(messages, {"tests": puzzle.asserts}, kind="function", symbol=puzzle.name)


PUZZLES = (
    Puzzle(
        "add(a, b)",
        "It returns the sum of two numbers.",
        "a + b",
        ("1, 2 -> 3", "-4, 4 -> 0", "0.5, 0.25 -> 0.75"),
    ),
    Puzzle("square(x)", "It returns x times x.", "x * x", ("3 -> 9", "-2 -> 4", "0 -> 0")),
    Puzzle(
        "is_even(n)",
        "It returns True for even integers and False for odd ones.",
        "n % 2 == 0",
        ("4 -> True", "7 -> False", "0 -> True", "-3 -> False"),
    ),
    Puzzle(
        "largest(numbers)",
        "It returns the largest number of a list that is not empty.",
        "max(numbers)",
        ("[1, 5, 2] -> 5", "[-3] -> -3", "[-3, -1, -2] -> -1"),
    ),
    Puzzle(
        "total(numbers)",
        "It returns the sum of a list, 0 for an empty one.",
        "sum(numbers)",
        ("[1, 2, 3] -> 6", "[] -> 0", "[-1, 1] -> 0"),
    ),
    Puzzle(
        "mean(numbers)",
        "It returns the average of a list that is not empty.",
        "sum(numbers) / len(numbers)",
        ("[1, 2, 3] -> 2", "[5] -> 5", "[1, 2] -> 1.5"),
    ),
    Puzzle(
        "reverse(text)",
        "It returns the text backwards.",
        "text[::-1]",
        ("'abc' -> 'cba'", "'' -> ''", "'aab' -> 'baa'"),
    ),
    Puzzle(
        "count_vowels(text)",
        "It returns how many of a, e, i, o, u there are, in either case.",
        "sum(c in 'aeiou' for c in text.lower())",
        ("'banana' -> 3", "'XYZ' -> 0", "'AEio' -> 4", "'' -> 0"),
    ),
    Puzzle(
        "is_palindrome(text)",
        "It returns whether the text reads the same backwards.",
        "text == text[::-1]",
        ("'level' -> True", "'ab' -> False", "'' -> True"),
    ),
    Puzzle(
        "factorial(n)",
        "It returns the product of the integers from 1 to n, and 1 for 0.",
        "1 if n == 0 else n * factorial(n - 1)",
        ("0 -> 1", "1 -> 1", "5 -> 120", "10 -> 3628800"),
    ),
    Puzzle(
        "fibonacci(n)",
        "It returns the n-th number of 0, 1, 1, 2, 3, 5, ..., counted from 0.",
        "n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)",
        ("0 -> 0", "1 -> 1", "2 -> 1", "10 -> 55"),
    ),
    Puzzle(
        "is_prime(n)",
        "It returns whether the integer n is a prime number.",
        "n > 1 and all(n % d for d in range(2, n))",
        ("2 -> True", "9 -> False", "1 -> False", "97 -> True", "0 -> False"),
    ),
    Puzzle(
        "gcd(a, b)",
        "It returns the greatest common divisor of two positive integers.",
        "a if b == 0 else gcd(b, a % b)",
        ("12, 18 -> 6", "7, 5 -> 1", "4, 4 -> 4"),
    ),
    Puzzle(
        "unique(items)",
        "It returns a list of the items without repeats, in their first order.",
        "list(dict.fromkeys(items))",
        ("[3, 1, 3, 2, 1] -> [3, 1, 2]", "[] -> []", "['b', 'a', 'b'] -> ['b', 'a']"),
    ),
    Puzzle(
        "flatten(lists)",
        "It returns one list of all items of a list of lists.",
        "[item for part in lists for item in part]",
        ("[[1], [2, 3]] -> [1, 2, 3]", "[] -> []", "[[], [4]] -> [4]"),
    ),
    Puzzle(
        "first_words(text, n)",
        "It returns the first n words of the text, joined by spaces.",
        "' '.join(text.split()[:n])",
        ("'one two three', 2 -> 'one two'", "'a', 3 -> 'a'", "'a b', 0 -> ''"),
    ),
    Puzzle(
        "count_words(text)",
        "It returns how many words, separated by white space, there are.",
        "len(text.split())",
        ("'one two' -> 2", "'' -> 0", "'  a  b ' -> 2"),
    ),
    Puzzle(
        "capitalize_words(text)",
        "It makes the first letter of each word upper case. Words are"
        " separated by single spaces, and other letters stay as they are.",
        "' '.join(w[:1].upper() + w[1:] for w in text.split(' '))",
        ("'ab cd' -> 'Ab Cd'", "'' -> ''", "'aB' -> 'AB'"),
    ),
    Puzzle(
        "clamp(x, low, high)",
        "It returns low if x is below it, high if x is above it, else x.",
        "max(low, min(x, high))",
        ("5, 0, 3 -> 3", "-1, 0, 3 -> 0", "2, 0, 3 -> 2"),
    ),
    Puzzle(
        "digit_sum(n)",
        "It returns the sum of the decimal digits of an integer from 0 on.",
        "sum(map(int, str(n)))",
        ("123 -> 6", "0 -> 0", "999 -> 27"),
    ),
    Puzzle(
        "celsius(f)",
        "It turns degrees Fahrenheit into degrees Celsius.",
        "(f - 32) * 5 / 9",
        ("32 -> 0", "212 -> 100", "-40 -> -40"),
    ),
    Puzzle(
        "is_leap_year(year)",
        "It returns whether a year of the Gregorian calendar is a leap year.",
        "year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
        ("2024 -> True", "1900 -> False", "2000 -> True", "2023 -> False"),
    ),
    Puzzle(
        "evens(numbers)",
        "It returns a list of the even numbers, in their order.",
        "[n for n in numbers if n % 2 == 0]",
        ("[1, 2, 3, 4] -> [2, 4]", "[1] -> []", "[0, -2] -> [0, -2]"),
    ),
    Puzzle(
        "squares(n)",
        "It returns a list of the squares of 1 to n.",
        "[i * i for i in range(1, n + 1)]",
        ("3 -> [1, 4, 9]", "0 -> []", "1 -> [1]"),
    ),
    Puzzle(
        "count(items, wanted)",
        "It returns how often `wanted` is in the list.",
        "items.count(wanted)",
        ("[1, 2, 1], 1 -> 2", "[], 1 -> 0", "['a'], 'a' -> 1"),
    ),
    Puzzle(
        "second_largest(numbers)",
        "It returns the second largest of the different numbers in a list that has at least two.",
        "sorted(set(numbers))[-2]",
        ("[1, 5, 2] -> 2", "[5, 5, 3] -> 3", "[-1, -2] -> -2"),
    ),
    Puzzle(
        "to_binary(n)",
        "It returns an integer from 0 on as text in base two.",
        "f'{n:b}'",
        ("5 -> '101'", "0 -> '0'", "8 -> '1000'"),
    ),
    Puzzle(
        "from_binary(text)",
        "It returns the integer that a text of 0s and 1s means in base two.",
        "int(text, 2)",
        ("'101' -> 5", "'0' -> 0", "'1111' -> 15"),
    ),
    Puzzle(
        "merge(a, b)",
        "It returns one ascending list of the numbers of two ascending lists.",
        "sorted(a + b)",
        ("[1, 4], [2, 3] -> [1, 2, 3, 4]", "[], [1] -> [1]", "[1], [1] -> [1, 1]"),
    ),
    Puzzle(
        "common(a, b)",
        "It returns an ascending list of the numbers that are in both lists.",
        "sorted(set(a) & set(b))",
        ("[1, 2, 3], [2, 3, 4] -> [2, 3]", "[1], [2] -> []", "[2, 2, 1], [2, 1] -> [1, 2]"),
    ),
    Puzzle(
        "anagrams(a, b)",
        "It returns whether two words have the same letters, equally often.",
        "sorted(a) == sorted(b)",
        ("'listen', 'silent' -> True", "'aab', 'abb' -> False"),
    ),
    Puzzle(
        "char_counts(text)",
        "It returns a dict of how often each character is in the text.",
        "{c: text.count(c) for c in text}",
        ("'aba' -> {'a': 2, 'b': 1}", "'' -> {}"),
    ),
    Puzzle(
        "invert(table)",
        "It returns a dict whose keys are the values of the given one, and whose"
        " values are its keys.",
        "{v: k for k, v in table.items()}",
        ("{'a': 1} -> {1: 'a'}", "{} -> {}", "{1: 2, 3: 4} -> {2: 1, 4: 3}"),
    ),
    Puzzle(
        "longest_word(text)",
        "It returns the longest word of a text; of equally long ones, the first.",
        "max(text.split(), key=len)",
        ("'a bcd ef' -> 'bcd'", "'ab cd' -> 'ab'", "'one' -> 'one'"),
    ),
    Puzzle(
        "without(text, letter)",
        "It returns the text without every occurrence of the letter.",
        "text.replace(letter, '')",
        ("'banana', 'a' -> 'bnn'", "'abc', 'x' -> 'abc'"),
    ),
    Puzzle(
        "running_sums(numbers)",
        "It returns a list whose n-th number is the sum of the first n.",
        "[sum(numbers[:i + 1]) for i in range(len(numbers))]",
        ("[1, 2, 3] -> [1, 3, 6]", "[] -> []", "[5, -5] -> [5, 0]"),
    ),
    Puzzle(
        "rotate(items, n)",
        "It returns the list with its first n items moved to the end; n is at most its length.",
        "items[n:] + items[:n]",
        ("[1, 2, 3], 1 -> [2, 3, 1]", "[1, 2], 0 -> [1, 2]", "[1, 2], 2 -> [1, 2]"),
    ),
    Puzzle(
        "chunks(items, n)",
        "It returns a list of lists of n items each; the last may be shorter.",
        "[items[i:i + n] for i in range(0, len(items), n)]",
        ("[1, 2, 3], 2 -> [[1, 2], [3]]", "[], 2 -> []", "[1, 2], 1 -> [[1], [2]]"),
    ),
    Puzzle(
        "dot(a, b)",
        "It returns the sum of the products of two equally long lists, item by item.",
        "sum(x * y for x, y in zip(a, b))",
        ("[1, 2], [3, 4] -> 11", "[], [] -> 0"),
    ),
    Puzzle(
        "transpose(rows)",
        "It turns the rows of a list of equally long lists into columns.",
        "[list(column) for column in zip(*rows)]",
        ("[[1, 2], [3, 4]] -> [[1, 3], [2, 4]]", "[[1, 2]] -> [[1], [2]]"),
    ),
    Puzzle(
        "power(a, n)",
        "It returns a to the power of n, an integer from 0 on.",
        "a ** n",
        ("2, 10 -> 1024", "5, 0 -> 1", "-2, 3 -> -8"),
    ),
    Puzzle(
        "absolute(x)",
        "It returns the absolute value of x, without calling abs.",
        "x if x >= 0 else -x",
        ("-3 -> 3", "3 -> 3", "0 -> 0"),
    ),
    Puzzle(
        "initials(name)",
        "It returns the first letter of each word of a name, in upper case.",
        "''.join(w[0].upper() for w in name.split())",
        ("'ada lovelace' -> 'AL'", "'Grace' -> 'G'", "'' -> ''"),
    ),
    Puzzle(
        "is_sorted(numbers)",
        "It returns whether no number is smaller than the one before it.",
        "numbers == sorted(numbers)",
        ("[1, 2, 2] -> True", "[2, 1] -> False", "[] -> True"),
    ),
    Puzzle(
        "fizz(n)",
        "It returns 'FizzBuzz' if n is a multiple of 15, else 'Fizz' if of 3, else"
        " 'Buzz' if of 5, else n as text.",
        "'FizzBuzz' if n % 15 == 0 else 'Fizz' if n % 3 == 0 else 'Buzz' if n % 5 == 0 else str(n)",
        ("15 -> 'FizzBuzz'", "9 -> 'Fizz'", "10 -> 'Buzz'", "7 -> '7'"),
    ),
)
