"""Writes the tables of target_tables.json: what Python's fnmatch and re, and Salt's compound matcher, say.

Run with the Python of a Salt installation: python make_target_tables.py > target_tables.json
"""
import fnmatch, json, random, re, sys, types

import salt.matchers.compound_match as compound
import salt.matchers.glob_match as glob_match
import salt.matchers.list_match as list_match
import salt.matchers.pcre_match as pcre_match

rng = random.Random(4505)
ids = ["web1", "web2", "db-1.example.com", "a", "", "-", "]", "Web1", "b]c", "x!y", "web10", "^", "a,b", "m\u00fcller"]
globs = ["*", "?", "web*", "web?", "web[12]", "web[!1]", "[!]]", "[]]", "[]-a]", "[a-c]*", "[c-a]*", "[!c-a]*", "[--0]", "[a-]", "[!a-]",
         "[", "[!", "[a", "**1", "*.example.com", "\\*", "[^w]*", "[\\]", "[a-b-c]", "[!]", "[]", "WEB*", "", "*[!0-9]", "[a-\u00fc]*"]
alphabet = "web12[]!-*?^a.\\"
globs += ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 7))) for _ in range(400)]
out = {"glob": [], "pcre": [], "list": [], "compound": []}
for g in globs:
    for i in ids:
        try:
            out["glob"].append([g, i, fnmatch.fnmatchcase(i, g)])
        except re.error:
            pass
pcres = ["web", "web$", "^web[0-9]+$", "web1\\Z", "(?i)WEB", ".*example", "we(b|d)\\d", "[^a]", "(?P<x>w)e", "a{1,2}", "web\\d{2}", "", "b\\]c",
         "(?:db|web)-?1", "[]a]", "[a\\]]", "w.b\\w", "x|web", "\\Aweb", "db-1\\.example\\.com$", "(?i:WEB)1"]
for p in pcres:
    for i in ids:
        out["pcre"].append([p, i, bool(re.match(p, i))])
for l in ["web1,web2", "web1", ",web1", "web1 ,web2", "a,b", "x,a,b", "", ["web1"], ["a", "b"], []]:
    for i in ids:
        out["list"].append([l, i, list_match.match(l, {"id": i}, i)])
compound.__context__ = {"matchers": {"glob_match.match": glob_match.match, "list_match.match": list_match.match, "pcre_match.match": pcre_match.match}}
words = ["and", "or", "not", "(", ")", "web*", "web1", "L@web1,a", "E@we.1", "db*", "*"]
texts = ["web* and not web2", "not web1", "( web* or db* ) and *1", "web1 not web2", "and web1", "web1 or", "", "( web1", "web1 )", "web1 web2",
         "not not web1", "( and web1 )", "L@", "not ( web1 or a )", "web1 and ( not web2 )", "X@web1 or web1", "or", "(web1)"]
texts += [" ".join(rng.choice(words) for _ in range(rng.randint(1, 7))) for _ in range(1500)]
def odd(t):
    w = t.split()
    return any(b == "(" and a not in ("and", "or", "not", "(") or (a, b) == ("(", ")") for a, b in zip(w, w[1:]))
import warnings; warnings.simplefilter("ignore")
import logging; logging.disable(logging.CRITICAL)
for t in texts:
    if odd(t):
        continue
    for i in ["web1", "web2", "db-1.example.com", "a"]:
        out["compound"].append([t, i, bool(compound.match(t, {"id": i}, i))])
json.dump(out, sys.stdout, separators=(",", ":"))
