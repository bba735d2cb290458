#!/usr/bin/env python3
"""Builds the embedded corpus from ../shared/data: same input bytes, same output bytes.

    python3 corpus/build.py            writes corpus/openstax.jsonl.zst and corpus/chat.jsonl.zst
    python3 corpus/build.py --measure  also prints `xz -9e` bits per byte on a held-out slice of each

Standard library plus the `zstd` and `xz` commands. README.md beside this file says what is chosen and why.
"""

import hashlib
import json
import lzma
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"

# Compressed size is what a clone pays for; these raw budgets give about 9 MB together.
OPENSTAX_RAW_BYTES = 33_000_000
DIALOGUE_RAW_BYTES = 6_500_000

# Books written as continuous prose. Mathematics, statistics, programming, finance and pharmacology are
# tables, formulas and lists of drugs; they cost a small model tokens and teach it no sentences.
BOOKS = """
american-government anatomy-physiology astronomy college-success-bundle entrepreneurship
introduction-anthropology introduction-business introduction-philosophy introduction-political-science
introduction-sociology business-ethics introduction-intellectual-property microbiology physics
college-physics-bundle principles-economics-bundle principles-marketing psychology us-history world-history
""".split()

# Headings that open a block of lists, questions or links: the block is left out up to the next prose.
APPARATUS = re.compile(
    r"^(learning objectives?|learning outcomes|section learning objectives|lesson objectives|chapter objectives|"
    r"section key terms|key terms|teacher support|suggested (sequencing|resources|readings)|further (reading|research)|"
    r"websites?|articles|books|videos|works cited|references|bibliography|standards|check your understanding|"
    r"review questions|critical thinking questions?|(personal )?application questions?|problems?( & exercises)?|"
    r"conceptual questions|discussion questions|fill in the blank|true/false|multiple choice|matching|short answer|"
    r"thought questions|figuring for yourself|collaborative group activities|for further exploration|"
    r"interactive link questions?|hot links address book|working the net|practice (problems|test)|"
    r"test prep.*|ap practice.*|concept items|homework|solution|strategy|knowledge check|self-check questions|"
    r"answer:?|resources:?|concept checks?|link to learning|everyday connection|click to view content\.?)$",
    re.I,
)
BOILERPLATE = re.compile(
    r"(by the end of this (section|chapter)|after (completing|studying|reading) this|in this (chapter|section), you will learn|"
    r"^(this|the) (table|figure|map|image|photo)|^\[|https?://|www\.|credit: |\(figure\)|visit this|watch this|"
    r"take this (quiz|survey)|click (here|to)|openstax)",
    re.I,
)


def records(path):
    """The rows of a .jsonl.zst file."""
    text = subprocess.run(["zstd", "-dc", str(path)], check=True, capture_output=True).stdout.decode("utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


def digest(text):
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") / 2**64


def normal(text):
    """Case, punctuation and spacing removed: the same folding as `identity::normalise` in crates/data."""
    return " ".join(re.sub(r"[^a-z0-9]+", " ", text.lower().replace("'", "").replace("’", "")).split())


def held_out():
    """The wordings of crates/data/src/identity/held_out.rs; none of them may be trained on."""
    source = (HERE.parent / "crates/data/src/identity/held_out.rs").read_text(encoding="utf-8")
    table = source.split("#[cfg(test)]")[0]
    return {normal(s) for s in re.findall(r'^\s+"((?:[^"\\]|\\.)*)",$', table, re.M)}


# ---------------------------------------------------------------- OpenStax


def prose(text):
    """The document without study apparatus, link lines and formulas; None when little prose is left."""
    kept, skipping = [], False
    for line in (l.strip() for l in text.split("\n")):
        if not line:
            continue
        words = line.split()
        if APPARATUS.match(line):
            skipping = True
            continue
        sentence = len(words) >= 12 and line[-1] in ".!?:”\"" and not line.startswith("-")
        if skipping and not sentence:
            continue
        if BOILERPLATE.search(line) and len(words) < 60:
            continue
        skipping = False
        letters = sum(c.isalpha() or c == " " for c in line) / len(line)
        odd = sum(ord(c) > 127 and c not in "“”‘’—–é" for c in line) / len(line)
        if letters < 0.9 or odd > 0.02:
            continue
        if line.startswith("-") and len(words) < 8:
            continue
        kept.append(line)
    # A heading that lost its body would teach the model lists of headings.
    out = []
    for i, line in enumerate(kept):
        is_heading = len(line.split()) < 12 and line[-1] not in ".!?:”\""
        follows = kept[i + 1] if i + 1 < len(kept) else ""
        if is_heading and i > 0 and len(follows.split()) < 12:
            continue
        out.append(line)
    body = "\n\n".join(out)
    body = body.replace("\u00a0", " ").replace("\u2009", " ").replace("\u00ad", "")
    body = body.replace("“", '"').replace("”", '"').replace("’", "'").replace("‘", "'")
    body = re.sub(r" ?\((see|refer to|as shown in|shown in)?\s*(figure|table|chapter|appendix)?[^()]{0,60}\b(figure|table|appendix)\b[^()]{0,40}\)", "", body, flags=re.I)
    body = re.sub(r"[ \t]+", " ", body)
    return body if len(body) > 1200 else None


def quality(body):
    """Share of the characters in real paragraphs, less what digits and brackets take."""
    lines = body.split("\n\n")
    long = sum(len(l) for l in lines if len(l) >= 200)
    noise = sum(c.isdigit() or c in "()=/*[]" for c in body)
    return long / len(body) - 4.0 * noise / len(body)


def openstax():
    """Whole documents of the chosen books, best first until the budget, then in the order of the books."""
    wanted = {f"openstax/osbooks-{b}" for b in BOOKS}
    documents, seen = [], set()
    for order, row in enumerate(records(DATA / "pretrain/train_openstax.jsonl.zst")):
        if row["source"] not in wanted:
            continue
        body = prose(row["text"])
        if body is None or body[:400] in seen:
            continue
        seen.add(body[:400])
        documents.append((quality(body), order, {"id": row["id"], "text": body}))
    documents.sort(key=lambda d: (-d[0], d[1]))
    chosen, total = [], 0
    for _, order, row in documents:
        size = len(row["text"].encode("utf-8"))
        if total + size > OPENSTAX_RAW_BYTES:
            break
        chosen.append((order, row))
        total += size
    return [row for _, row in sorted(chosen, key=lambda c: c[0])]


# ---------------------------------------------------------------- small talk

TOPICS = """movies music disney music_and_movies harry_potter comedy fashion superhero star_wars beatles rock pop
baseball basketball icehockey action thriller nfl_football fast_furious""".split()

UNFIT = re.compile(
    r"\b(fuck\w*|shit\w*|bitch\w*|ass(hole)?|damn\w*|dick|cock|penis|vagina|sex\w*|porn\w*|nude\w*|naked|boob\w*|slut\w*|"
    r"whore\w*|rape\w*|gay|lesbian\w*|homo\w*|nigg\w*|retard\w*|crap\w*|piss\w*|hell|suicid\w*|kill(s|ed|ing)? (him|her|them|my)sel\w+|"
    r"drug\w*|cocaine|heroin|weed|marijuana|stoned|drunk|trump|obama|hillary|clinton|republican\w*|democrat\w*|"
    r"racis\w*|nazi\w*|hitler|muslim\w*|jew\w*|islam\w*|terroris\w*|abortion|molest\w*|pedo\w*|hooker\w*|stripper\w*|"
    r"hot (girl|guy|chick|babe)s?|horny|virgin\w*|murder\w*|mturk|turker\w*|hit|survey|requester|worker)\b",
    re.I,
)
GREETING = re.compile(r"^(hi+|hey+|hello+|yo|sup|good (morning|evening|afternoon)|greetings|howdy|what'?s up|whats up)\b[\w ,'!.?]{0,25}$", re.I)
ABOUT_SELF = re.compile(
    r"\b(your name|who (are|r) (you|u)\b(?!r)|my name is|i'?m called|call me|are you (a )?(human|robot|bot|real|ai|machine|computer)|"
    r"siri|alexa|cortana|chatbot|chat ?gpt|artificial intelligence|who (made|created|built) you)\b",
    re.I,
)
CONTRACTIONS = {
    "im": "I'm", "ive": "I've", "id": None, "ill": None, "dont": "don't", "doesnt": "doesn't", "didnt": "didn't",
    "cant": "can't", "couldnt": "couldn't", "wouldnt": "wouldn't", "shouldnt": "shouldn't", "isnt": "isn't",
    "arent": "aren't", "wasnt": "wasn't", "werent": "weren't", "havent": "haven't", "hasnt": "hasn't", "hadnt": "hadn't",
    "thats": "that's", "whats": "what's", "theyre": "they're", "youre": "you're", "hes": "he's", "shes": "she's",
    "theres": "there's", "whos": "who's", "alot": "a lot", "yea": "yeah", "ya": "yeah", "u": "you", "ur": "your",
    "gonna": "going to", "wanna": "want to", "ok": "okay", "favourite": "favorite", "i": "I", "i'm": "I'm",
    "i've": "I've", "i'd": "I'd", "i'll": "I'll", "wont": "won't", "thier": "their", "definately": "definitely",
}
ASKS = re.compile(
    r"^(so |and |but |well |oh |hey |ok |okay )*,?(who|what|when|where|why|which|how|do|does|did|have|has|are|is|was|were|can|could|would|will|should)\b",
    re.I,
)


def tidy(text):
    """One turn of small talk with ordinary spelling, capitals and a full stop."""
    text = re.sub(r"\s+", " ", text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')).strip()
    text = re.sub(r"([!?.,])\1{1,}", r"\1", text).replace("!.", "!").replace("?.", "?")
    text = re.sub(r" +([,.!?])", r"\1", text)

    def word(match):
        w = match.group(0)
        fixed = CONTRACTIONS.get(w.lower())
        if fixed is None:
            return w
        return fixed[0].upper() + fixed[1:] if w[0].isupper() and w.lower() != "i" else fixed

    text = re.sub(r"[A-Za-z']+", word, text)
    text = re.sub(r"(^|[.!?] )([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)
    if text and text[-1] not in ".!?\"'":
        text += "?" if ASKS.match(text) else "."
    return text


def dialogue_score(messages):
    """Higher for dialogues written with care: capitals, full stops, middling length, names capitalised."""
    good = 0.0
    for m in messages:
        raw = m["content"].strip()
        good += raw[:1].isupper() + (raw[-1:] in ".!?") + (12 <= len(raw) <= 140) + bool(re.search(r"[a-z] [A-Z]|I ", raw)) * 0.5
        good -= 2.0 * bool(re.search(r"[.]{2}|[!?]{2}|  |[A-Z]{5}|\d{3,}|[(){}<>/@#*]|haha|lol|omg", raw))
    return good / len(messages)


def dialogues(forbidden):
    """The best-written self-dialogues, tidied, each opening with something to talk about."""
    ranked, seen = [], set()
    for order, row in enumerate(records(DATA / "sft/self_dialogue.jsonl.zst")):
        topic = row["source"].rsplit("/", 1)[1]
        raw = row["messages"]
        if topic not in TOPICS or any(m["content"].strip() in ("", "{}") for m in raw):
            continue
        # A bare greeting is answered with the model's own name (identity conversations), so it may not open one here.
        while len(raw) >= 2 and GREETING.match(raw[0]["content"].strip()):
            raw = raw[2:]
        text = " ".join(m["content"] for m in raw)
        if len(raw) < 6 or UNFIT.search(text) or ABOUT_SELF.search(text) or not text.isascii():
            continue
        if any(len(m["content"]) > 240 for m in raw):
            continue
        messages = [{"role": m["role"], "content": tidy(m["content"])} for m in raw]
        if any(normal(m["content"]) in forbidden for m in messages):
            continue
        key = normal(messages[0]["content"]) + "|" + normal(messages[1]["content"])
        if key in seen:
            continue
        seen.add(key)
        score = dialogue_score(raw) - 0.4 * (topic in ("nfl_football", "thriller", "action", "star_wars"))
        ranked.append((score, order, {"messages": messages, "source": "self_dialogue"}))
    ranked.sort(key=lambda d: (-d[0], d[1]))
    chosen, total = [], 0
    for _, order, row in ranked:
        size = sum(len(m["content"]) for m in row["messages"])
        if total + size > DIALOGUE_RAW_BYTES:
            break
        chosen.append((order, row))
        total += size
    return [row for _, row in sorted(chosen, key=lambda c: c[0])]


# ---------------------------------------------------------------- questions with answers

DEFINITION = re.compile(
    r"^(?:(?P<article>An?) )?(?P<term>[A-Za-z][a-z-]{2,20}(?: [a-z-]{3,20}){0,2}) is (?:an?|the) (?P<rest>.+)$"
)
GENUS = re.compile(r"\b(that|which|who|whose|in which|where|used|of|between|made|with|by)\b")
VAGUE = re.compile(
    r"\b(this|these|those|it|its|their|they|he|she|his|her|we|our|us|you|your|see|figure|table|chapter|section|above|below|here|example|"
    r"examples|however|also|same|another|such|therefore|thus|box|earlier|discussed|above|following|one|now|then|result|consequence|most|convenient|"
    r"important|best|only|patient|yoga|cause|causative|rape|sexual|sex|murder|suicide)\b",
    re.I,
)
NOT_A_TERM = re.compile(
    r"^(the (?!(heart|liver|stomach|skin|brain|sun|moon|pharynx|larynx|large|small|spinal|nervous)\b)|there|that|this|these|those|it|here|what|which|who|when|where|how|why|one|another|each|every|some|both|all|if|as|in|on|at|for|from|"
    r"of|to|with|by|below|above|following|then|below|after|before|today|first|second|third|such|any|no|not|his|her|their|our|my|your)\b|"
    r"\b(of|for|in|to|with|and|or|that|at|on|from|by|below|above|problem|key|goal|reason|question|example|step|way|itself|level|leading|data)\b",
    re.I,
)
ASKING = [
    "What is {}?", "What is {}?", "What is {}?", "What is {}?", "Can you tell me what {} is?", "Please explain what {} is.",
    "Define {}.", "Tell me what {} is.", "What does {} mean?", "Do you know what {} is?",
]


def definitions(forbidden):
    """One question for each term that a book defines in one short sentence at the head of a paragraph."""
    found = {}
    for row in records(DATA / "pretrain/train_openstax.jsonl.zst"):
        if "nursing" in row["source"] or "writing-guide" in row["source"]:
            continue
        for paragraph in row["text"].split("\n"):
            sentence = re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph.strip())[0].replace("’", "'")
            match = DEFINITION.match(sentence)
            if not match or not 40 <= len(sentence) <= 130 or not sentence.isascii() or not sentence.endswith("."):
                continue
            term, rest = match["term"], match["rest"]
            if any(c.isdigit() or c in "()\"=;:—[]$" for c in sentence) or VAGUE.search(rest) or NOT_A_TERM.search(term):
                continue
            if not GENUS.search(" ".join(rest.split()[:6])) or re.search(r"\b(is|are|was) [a-z]+ed by$", sentence):
                continue
            asked = f"{match['article'].lower()} {term}" if match["article"] else term[0].lower() + term[1:]
            if UNFIT.search(sentence) or normal(term) in found:
                continue
            question = ASKING[int(digest(term) * len(ASKING))].format(asked)
            if normal(question) in forbidden or normal(f"What is {asked}?") in forbidden:
                continue
            messages = [{"role": "user", "content": question}, {"role": "assistant", "content": sentence}]
            found[normal(term)] = {"messages": messages, "source": "openstax_definitions"}
    return list(found.values())


def instructions(forbidden):
    """The short single-paragraph answers of the instruction set."""
    out = []
    for row in records(DATA / "sft/rasbt_instruct.jsonl.zst"):
        asked, answer = (m["content"].strip() for m in row["messages"][:2])
        if not (2 <= len(answer) <= 200) or "\n" in answer or UNFIT.search(asked + answer) or ABOUT_SELF.search(asked):
            continue
        if normal(asked) in forbidden or not (asked + answer).isascii():
            continue
        if "random" in asked or "{" in answer:
            continue
        if answer[-1] not in ".!?" and answer[-2:] not in (".'", '."'):
            answer += "."
        answer = answer[0].upper() + answer[1:]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        out.append({"messages": messages, "source": "rasbt_instruct"})
    return out


# ---------------------------------------------------------------- writing and measuring


def write(name, rows):
    """Compact JSON lines, compressed with a window of 8 MB; returns the raw text bytes."""
    raw = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows).encode("utf-8")
    packed = subprocess.run(["zstd", "-q", "-19", "--zstd=wlog=23", "-T1", "-c"], input=raw, check=True, capture_output=True).stdout
    (HERE / name).write_bytes(packed)
    print(f"{name}\trows {len(rows)}\traw {len(raw)}\tcompressed {len(packed)}\tsha256 {hashlib.sha256(packed).hexdigest()}")


def plain(row):
    """The text of a row as a compressor sees it."""
    return row["text"] if "text" in row else "\n".join(m["content"] for m in row["messages"])


def measure(name, rows):
    """`xz -9e` bits per byte on the 1.5 % of the rows whose hash falls there."""
    slice_ = "\n\n".join(plain(r) for r in rows if digest(plain(r)) < 0.015).encode("utf-8")
    packed = lzma.compress(slice_, preset=9 | lzma.PRESET_EXTREME)
    print(f"{name}\theld-out bytes {len(slice_)}\txz -9e {8 * len(packed) / len(slice_):.3f} bits per byte")


def main():
    forbidden = held_out()
    if len(forbidden) < 40:
        sys.exit(f"held_out.rs: found {len(forbidden)} wordings, expected 40: has its layout changed?")
    books = openstax()
    chats = dialogues(forbidden) + definitions(forbidden) + instructions(forbidden)
    write("openstax.jsonl.zst", books)
    write("chat.jsonl.zst", chats)
    counts = {}
    for row in chats:
        c = counts.setdefault(row["source"], [0, 0])
        c[0] += 1
        c[1] += len(plain(row))
    print(counts)
    if "--measure" in sys.argv:
        measure("openstax", books)
        for source in counts:
            measure(source, [r for r in chats if r["source"] == source])
        measure("chat", chats)


if __name__ == "__main__":
    main()
