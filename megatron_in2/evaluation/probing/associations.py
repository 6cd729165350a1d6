"""Pairs of statement and question that share no content word: only knowledge links them.

In the spirit of NoLiMa (arXiv 2502.05167), whose point is that probes which repeat the question's
words in the evidence can be answered by literal matching. All pairs here are our own.
"""

import re
from dataclasses import dataclass

SHARED_LETTERS = 4  # words with so many letters in a row in common count as the same

_WORDS = re.compile(r"[^\W\d_]+")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a an the of in on at to for by from with and or is was are has have had been be did
        does do which who person people whole every all it its their his her that this as not
        no
        """,
    )
)

NAMES = [
    "Yolanda",
    "Percival",
    "Winifred",
    "Ottoline",
    "Barnaby",
    "Cordelia",
    "Thaddeus",
    "Philippa",
    "Leopold",
    "Henrietta",
    "Ignatius",
    "Rosalind",
    "Bartholomew",
    "Clementine",
    "Montgomery",
    "Josephine",
    "Cornelius",
    "Wilhelmina",
    "Archibald",
    "Millicent",
    "Reginald",
    "Ernestine",
    "Evangeline",
    "Guinevere",
    "Horatio",
    "Isadora",
    "Jemima",
    "Lysander",
    "Marguerite",
    "Octavia",
]


@dataclass(frozen=True)
class Association:
    """``statement`` has the field {name}, the answer; ``question`` asks by ``target``."""

    statement: str
    target: str
    question: str


def lexical_overlap(question: str, evidence: str) -> float:
    """Return the share of the question's content words that the evidence contains too.

    Words are lower-cased, stop words left out, and two are the same where they are equal or have
    ``SHARED_LETTERS`` letters in a row in common, so that inflection and compounds hide no match.
    """
    asked = _content_words(question)
    present = {run for word in _content_words(evidence) for run in _runs(word)}
    return sum(bool(_runs(word) & present) for word in asked) / len(asked) if asked else 0.0


def _content_words(text: str) -> set[str]:
    return set(_WORDS.findall(text.lower())) - _STOP_WORDS


def _runs(word: str) -> set[str]:
    starts = range(len(word) - SHARED_LETTERS + 1)
    return {word, *(word[start : start + SHARED_LETTERS] for start in starts)}


# (statement, question, "clue = target" pairs)
_FRAMES = (
    (
        "{name} rented a small flat right beside {clue} last summer.",
        "Which person has been to {target}?",
        """
        the Eiffel Tower = Paris; Big Ben = London; the Brandenburg Gate = Berlin;
        the Colosseum = Rome; the Acropolis = Athens; the Sagrada Familia = Barcelona;
        the Prado = Madrid; the Little Mermaid statue = Copenhagen; the Hermitage = Petersburg;
        the Kremlin = Moscow; the Hagia Sophia = Istanbul; the Burj Khalifa = Dubai;
        the Taj Mahal = Agra; the Gateway of India = Mumbai; the Red Fort = Delhi;
        the Forbidden City = Beijing; the Bund promenade = Shanghai; Victoria Peak = Hong Kong;
        the Petronas Towers = Kuala Lumpur; Marina Bay Sands = Singapore;
        the Golden Pavilion = Kyoto; the Shibuya crossing = Tokyo; the Harbour Bridge = Sydney;
        the Sky Tower = Auckland; Table Mountain = Cape Town; the pyramids of Giza = Cairo;
        the Hassan II Mosque = Casablanca; the Jemaa el-Fnaa = Marrakesh;
        the Christ the Redeemer statue = Rio; the Obelisk of Avenida 9 de Julio = Buenos Aires;
        the Golden Gate Bridge = San Francisco; the Space Needle = Seattle;
        the Gateway Arch = Saint Louis; the Willis Tower = Chicago; the Alamo = San Antonio;
        the Liberty Bell = Philadelphia; Fenway Park = Boston;
        the Empire State Building = New York; the Lincoln Memorial = Washington;
        the Hollywood sign = Los Angeles; the CN Tower = Toronto; the Atomium = Brussels;
        the Rijksmuseum = Amsterdam; Edinburgh Castle = Scotland; the Charles Bridge = Prague;
        Schoenbrunn Palace = Vienna; the Fisherman's Bastion = Budapest; the Leaning Tower = Pisa;
        the Ponte Vecchio = Florence; the Rialto Bridge = Venice; La Scala = Milan;
        the Vasa Museum = Stockholm; the Frogner Park = Oslo; the Belem Tower = Lisbon;
        the Hallgrimskirkja = Reykjavik; the Zytglogge clock = Bern;
        the Molly Malone statue = Dublin; the Western Wall = Jerusalem;
        the Angkor temples = Cambodia; the ruins of Machu Picchu = Peru;
        the Treasury of Petra = Jordan
        """,
    ),
    (
        "{name} goes to work at dawn with {clue}.",
        "Which person is a {target}?",
        """
        a stethoscope = doctor; a gavel and a black robe = judge;
        a trowel and mortar = bricklayer; a baton and an orchestral score = conductor;
        a rolling pin and yeast = baker; a cleaver and sausage skins = butcher;
        a comb, clippers and hair dye = barber; a ladder and an extinguisher = firefighter;
        handcuffs and a police badge = constable; a mailbag full of letters = postman;
        a harpoon and a trawl net = fisherman; a bridle and horseshoes = farrier;
        a wrench for leaking taps and drains = plumber; a thimble and a tape measure = tailor;
        a loom = weaver; a kiln and wet clay = potter; an anvil and tongs = blacksmith;
        a saw, a plane and oak boards = carpenter; a drill and a mirror for molars = dentist;
        a scalpel for tumours = surgeon; a telescope and star charts = astronomer;
        a cockpit checklist = pilot; a blackboard and homework to mark = teacher;
        a tripod and lenses = photographer; a combine harvester = farmer;
        a smoker and a veil against stings = beekeeper; a crook and two collies = shepherd;
        a pickaxe and a lamp for the coal seam = miner; a lasso = cowboy;
        a corkscrew and a list of vintages = sommelier; a pulpit sermon = priest;
        a compiler and a debugger = programmer; a ledger and tax forms = accountant;
        a sextant and the tide tables = navigator; a cage of leopards to feed = zookeeper;
        dough, tomato sauce and mozzarella = pizzaiolo
        """,
    ),
    (
        "{name} can recite whole pages about {clue}.",
        "Which person has read {target}?",
        """
        the Prince of Denmark and his murdered father = Shakespeare; Captain Ahab = Melville;
        Elizabeth Bennet and Mr Darcy = Austen; Oliver Twist = Dickens; Winston Smith = Orwell;
        Bilbo Baggins = Tolkien; Sherlock Holmes = Conan Doyle; Hercule Poirot = Agatha Christie;
        Anna Karenina = Tolstoy; Raskolnikov = Dostoevsky; Gregor Samsa = Kafka;
        Jean Valjean = Victor Hugo; Captain Nemo = Jules Verne; Don Quixote = Cervantes;
        Huckleberry Finn = Mark Twain; Jay Gatsby = Fitzgerald; Leopold Bloom = Joyce;
        Mrs Dalloway = Virginia Woolf; Atticus Finch = Harper Lee; Count Dracula = Bram Stoker;
        Hester Prynne = Hawthorne; Tom Joad = Steinbeck; Holden Caulfield = Salinger;
        Odysseus = Homer; Beatrice and the nine circles = Dante; Mephistopheles = Goethe;
        Yossarian = Heller; Alice and the white rabbit = Lewis Carroll;
        Aureliano Buendia = Marquez; Heathcliff = Bronte
        """,
    ),
    (
        "{name} found {clue} in an old gym bag.",
        "Which person plays {target}?",
        """
        a shuttlecock = badminton; a puck = hockey;
        a helmet and a quarterback's jersey = football; a pitcher's glove = baseball;
        two bails and a red leather ball = cricket; a nine iron and some tees = golf;
        a worn clay-court racket = tennis; a cue and some blue chalk = billiards;
        a bow and three arrows = archery; a foil and a mesh mask = fencing;
        a snorkel cap and a pool ball = waterpolo; a scrum cap = rugby; a mouthguard = boxing;
        a white pawn and a black bishop = chess; a ten-pin score sheet = bowling;
        a mallet and a pony's bandage = polo; a broom and a granite stone = curling;
        a double-bounce paddle of pimpled rubber = pingpong;
        a black belt and a breaking board = karate
        """,
    ),
    (
        "{name} makes {clue} on Sundays for the neighbours.",
        "Which person prepares {target} food?",
        """
        sauerkraut and bratwurst = German; paella = Spanish; sushi and miso soup = Japanese;
        kimchi = Korean; tacos with mole = Mexican; lasagne = Italian; moussaka = Greek;
        borscht = Ukrainian; pierogi = Polish; goulash = Hungarian; haggis = Scottish;
        fondue and raclette = Swiss; bouillabaisse = French; pho = Vietnamese;
        tom yum and green curry paste = Thai; injera = Ethiopian; tagine = Moroccan;
        dim sum = Cantonese; vindaloo = Indian; baklava = Turkish; feijoada = Brazilian;
        asado = Argentine; smorrebrod = Danish; meatballs with lingonberries = Swedish;
        poutine = Canadian; pavlova = Australian; hummus and falafel = Lebanese;
        nasi goreng = Indonesian; chicken adobo = Filipino; ceviche = Peruvian
        """,
    ),
    (
        "{name} still has a purse full of {clue} after the trip.",
        "Which person came back from {target}?",
        """
        zloty = Poland; forint = Hungary; koruna = Czechia; rubles = Russia; hryvnia = Ukraine;
        yen = Japan; won = Korea; yuan = China; rupees = India; baht = Thailand; dong = Vietnam;
        ringgit = Malaysia; pounds sterling = England; lira = Turkey; shekels = Israel;
        riyals = Saudi Arabia; dirhams = Morocco; naira = Nigeria; cedis = Ghana; birr = Ethiopia;
        reais = Brazil; soles = Peru; bolivars = Venezuela; quetzals = Guatemala;
        lempiras = Honduras; lei = Romania; leva = Bulgaria; dram = Armenia; lari = Georgia;
        taka = Bangladesh
        """,
    ),
    (
        "{name} put {clue} back into its velvet case.",
        "Which person is a {target}?",
        """
        a Stradivarius = violinist; a Steinway tuning fork = pianist;
        a pair of timpani mallets = drummer; a Les Paul and its plectrum = guitarist;
        a double reed = oboist; a mouthpiece and a mute = trumpeter;
        a tartan bag with drones and a chanter = piper; an alto by Adolphe Sax = saxophonist
        """,
    ),
    (
        "{name} was told by the clinic to stay away from {clue}.",
        "Which person must avoid {target}?",
        """
        lactose = milk; gluten = wheat; caffeine = coffee; shellfish = shrimp; pollen = flowers;
        legumes that grow in underground pods = peanuts; sucrose = sugar; nicotine = cigarettes;
        ethanol = beer; sodium chloride = salt
        """,
    ),
)


def _associations() -> tuple[Association, ...]:
    made = []
    for statement, question, pairs in _FRAMES:
        for pair in " ".join(pairs.split()).split(";"):
            clue, target = (side.strip() for side in pair.split("="))
            stated = statement.replace("{clue}", clue)
            made.append(Association(stated, target, question.format(target=target)))
    return tuple(made)


ASSOCIATIONS = _associations()
