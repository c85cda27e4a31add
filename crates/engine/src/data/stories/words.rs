//! The words of the stories. A slot `{name}` of a template draws from the list of that name.

/// Names with the pronoun that goes with them.
pub(super) const SHE: &[&str] = &[
    "Lily", "Mia", "Anna", "Rosa", "Ella", "Nora", "Ivy", "Ruby", "Clara", "Daisy", "Emma", "Zoe", "Lucy", "Maya",
    "Hazel", "Olive", "Tilly", "Wren", "Poppy", "June", "Amy", "Bella", "Kira", "Nina", "Sara", "Elsie", "Greta",
    "Hana", "Leila", "Molly", "Penny", "Sophie", "Tess", "Vera", "Willa", "Alma", "Cora", "Dora", "Freya", "Ida",
];
pub(super) const HE: &[&str] = &[
    "Tom", "Ben", "Max", "Sam", "Leo", "Finn", "Jack", "Oscar", "Tim", "Noah", "Eli", "Hugo", "Milo", "Otto", "Felix",
    "Jasper", "Kai", "Luca", "Nico", "Owen", "Pip", "Ravi", "Theo", "Toby", "Will", "Arlo", "Bruno", "Cole", "Dan",
    "Emil", "Fred", "Gus", "Henry", "Ivan", "Joe", "Karl", "Louis", "Marco", "Ned", "Rory",
];
/// Animals that act like people.
pub(super) const ANIMALS: &[&str] = &[
    "rabbit", "fox", "bear", "mouse", "squirrel", "hedgehog", "duck", "frog", "cat", "puppy", "badger", "otter",
    "turtle", "lamb", "pony", "goat", "beaver", "mole", "penguin", "pig", "owl", "raccoon", "elephant", "monkey",
];
/// Grown-ups with their pronoun.
pub(super) const ELDERS: &[(&str, bool)] = &[
    ("mother", true), ("father", false), ("grandmother", true), ("grandfather", false), ("aunt", true), ("uncle", false),
    ("mother", true), ("father", false), ("grandmother", true), ("grandfather", false),
];

/// Every other list. An entry with a bar is `preposition|noun`: `{place}` gives the noun,
/// `{place.in}` both, `{place.to}` the noun behind `to`.
pub(super) const LISTS: &[(&str, &[&str])] = &[
    ("trait", &[
        "kind", "brave", "curious", "cheerful", "gentle", "clever", "friendly", "shy", "happy", "playful", "careful",
        "honest", "quiet", "funny", "helpful", "lively", "patient", "busy", "polite", "merry", "thoughtful", "proud",
        "sleepy", "dreamy", "eager", "stubborn", "bold", "sweet",
    ]),
    ("size", &["little", "small", "young", "tiny"]),
    ("home", &[
        "in|a small house by the river", "in|a village near the hills", "on|a farm at the edge of town",
        "in|a cottage with a red door", "near|the old mill", "by|the sea", "in|a cozy home under a big oak tree",
        "in|a green valley", "on|a quiet street", "at|the foot of a mountain", "beside|a clear blue lake",
        "in|a little town with a clock tower", "on|an island full of birds", "near|a deep forest",
        "in|a yellow house on a hill", "next to|a wide meadow", "behind|the bakery", "at|the end of a long road",
    ]),
    ("hobby", &[
        "singing songs", "drawing pictures", "climbing trees", "collecting smooth stones", "counting the stars",
        "looking at the clouds", "baking bread", "reading books", "telling jokes", "jumping in puddles",
        "listening to stories", "feeding the ducks", "watching the birds", "folding paper boats", "playing the drum",
        "dancing in the rain", "painting with bright colors", "growing carrots", "solving puzzles",
        "chasing butterflies", "picking flowers", "digging in the sand", "working in the garden", "asking questions",
        "learning new words", "walking in the woods", "skipping stones", "making soup", "riding in the wagon",
    ]),
    ("weather", &["sunny", "warm", "bright", "windy", "cool", "cloudy", "quiet", "fine", "fresh", "mild", "golden"]),
    ("time", &["morning", "afternoon", "day", "morning", "day"]),
    ("color", &[
        "red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "brown", "silver", "golden", "striped",
        "shiny", "spotted",
    ]),
    ("toy", &[
        "ball", "kite", "drum", "wagon", "doll", "top", "whistle", "puzzle", "teddy bear", "toy boat", "toy train",
        "jump rope", "yo-yo", "puppet", "marble", "toy car", "hoop", "toy horse", "music box", "paper airplane",
    ]),
    ("treasure", &[
        "button", "scarf", "hat", "ring", "key", "shell", "book", "bell", "feather", "coin", "mitten", "ribbon",
        "basket", "lantern", "necklace", "cup", "pencil", "umbrella", "backpack", "spoon", "acorn", "boot",
    ]),
    ("treat", &[
        "cookie", "apple", "pear", "sandwich", "muffin", "orange", "plum", "pancake", "slice of cake", "cherry pie",
        "peach", "bun", "banana", "piece of cheese", "carrot", "biscuit", "bowl of berries", "honey cake", "pretzel",
    ]),
    ("meal", &[
        "vegetable soup", "warm bread and butter", "pancakes with honey", "apple pie", "noodles", "rice and beans",
        "baked potatoes", "mushroom soup", "corn and peas", "hot porridge", "pumpkin pie", "fish and rice",
        "tomato soup", "berry jam on toast",
    ]),
    ("place", &[
        "in|the forest", "in|the park", "at|the beach", "in|the meadow", "at|the pond", "in|the garden", "at|the market",
        "on|the hill", "by|the river", "at|the lake", "in|the orchard", "in|the village square", "at|the playground",
        "in|the field", "near|the bridge", "by|the stream", "in|the valley", "near|the barn", "at|the harbor",
    ]),
    ("spot", &[
        "under|the bed", "behind|the door", "in|the cupboard", "under|the table", "behind|the couch", "in|the closet",
        "under|the stairs", "in|the laundry basket", "on|the shelf", "in|the drawer", "behind|the curtain",
        "in|the toy chest", "under|the rug", "in|the kitchen", "beside|the stove", "in|the garden shed",
    ]),
    ("hidden", &[
        "under|a bush", "in|the tall grass", "behind|a big rock", "beside|the path", "in|a hollow log",
        "between|two roots", "under|a pile of leaves", "on|a low branch", "next to|the fence", "near|the well",
        "under|a bench", "in|a puddle", "behind|a tree", "on|an old tree stump",
    ]),
    ("pet", &[
        "kitten", "bird", "ladybug", "snail", "butterfly", "baby rabbit", "duckling", "lizard", "bee", "squirrel",
        "baby owl", "cricket", "lamb", "puppy", "chick", "hedgehog", "baby turtle", "sparrow", "beetle", "firefly",
    ]),
    ("lonely", &["kitten", "puppy", "duckling", "lamb", "baby owl", "pony", "donkey", "baby rabbit", "hedgehog", "calf"]),
    ("flower", &["rose", "daisy", "tulip", "sunflower", "violet", "lily", "poppy", "bluebell", "marigold"]),
    ("plant", &[
        "sunflower", "pumpkin", "bean plant", "tomato plant", "rose bush", "apple tree", "carrot", "strawberry plant",
        "tulip", "pea plant", "melon", "cherry tree",
    ]),
    ("build", &[
        "sand castle", "tree house", "snow fort", "toy boat", "birdhouse", "tower of blocks", "kite", "paper lantern",
        "little bridge", "wooden cart", "tent made of blankets", "stone wall", "raft", "scarecrow", "leaf crown",
    ]),
    ("skill", &[
        "to swim", "to whistle", "to ride a bike", "to skate", "to tie a knot", "to play the flute", "to jump rope",
        "to climb the rope", "to write {his} name", "to juggle", "to row a boat", "to bake bread", "to read",
        "to dance", "to throw a ball far", "to sew a button", "to stand on one leg", "to do a cartwheel",
    ]),
    ("fear", &[
        "the dark", "thunder", "deep water", "loud noises", "big dogs", "high places", "the old attic",
        "the long tunnel", "the first day of school", "the windy bridge", "speaking in front of others", "the cellar",
    ]),
    ("noise", &["tapping", "scratching", "humming", "rustling", "squeaking", "bumping", "ringing", "whispering", "buzzing"]),
    ("elderly", &[
        "old farmer", "baker", "mail carrier", "old sailor", "gardener", "shepherd", "teacher", "clockmaker", "painter",
        "fisherman", "librarian", "carpenter", "shoemaker", "beekeeper", "miller", "doctor", "weaver", "shopkeeper",
    ]),
    ("load", &[
        "a heavy basket of apples", "a cart full of hay", "a tall pile of books", "a sack of flour",
        "three big pumpkins", "a box of eggs", "a bundle of wood", "two buckets of water", "a bag of potatoes",
        "a long ladder", "a crate of oranges", "a barrel of fish", "a stack of plates",
    ]),
    ("gift", &[
        "a warm scarf", "a jar of honey", "a small wooden flute", "a bag of cherries", "a painted stone",
        "a book with gold letters", "a fresh loaf of bread", "a tiny bell", "a packet of seeds", "a knitted hat",
        "a basket of plums", "a new pencil", "a glass marble", "a little boat carved from wood", "a bright ribbon",
    ]),
    ("breakable", &[
        "vase", "blue plate", "window", "teapot", "clay bowl", "lamp", "mirror", "flower pot", "glass jar", "clock",
        "picture frame", "cup with the painted birds",
    ]),
    ("proud", &["proud", "happy", "glad", "pleased", "cheerful"]),
    ("sad", &["sad", "unhappy", "worried", "upset", "gloomy", "disappointed"]),
    ("sky", &[
        "dark clouds covered the sun", "it started to rain", "thick fog came down", "the wind began to howl",
        "big snowflakes began to fall", "the sky turned gray", "thunder rolled over the hills",
    ]),
    ("shelter", &[
        "under|a big tree", "in|a dry cave", "under|the bridge", "in|an old barn", "in|a hollow tree",
        "under|a wide leaf", "in|a little hut", "inside|an empty mill",
    ]),
    ("goal", &[
        "see the top of the hill", "find the end of the rainbow", "cross the river", "pick the apple on the highest branch",
        "see the sea", "visit the island in the lake", "find the oldest tree in the forest", "see where the stream began",
        "reach the waterfall", "watch the sun come up from the tower", "see the wild horses", "look inside the lighthouse",
    ]),
    ("obstacle", &[
        "a fallen tree blocked the path", "the old gate was locked", "the bridge was broken", "the path was full of thorns",
        "the rocks were too slippery", "the wall was too high", "the mud was too deep", "the stream was too wide",
        "the grass was taller than a house", "a flock of angry geese stood in the way",
    ]),
    ("idea", &[
        "build a small bridge with branches", "walk around it together", "use a long rope", "make a ladder out of sticks",
        "push with all their might", "ask the birds for the way", "lay flat stones one after another",
        "dig a little tunnel", "take turns and go step by step", "sing until the fear was gone",
    ]),
    ("night", &[
        "the moon was round and bright", "the stars were out", "the wind sang in the chimney", "an owl called far away",
        "rain tapped on the roof", "the house was still", "crickets chirped in the grass", "snow lay on the window",
    ]),
    ("family_work", &[
        "hang up the washing", "water the plants", "sweep the floor", "carry in the wood", "wash the dishes",
        "peel the potatoes", "feed the hens", "clean the windows", "paint the fence", "rake the leaves", "set the table",
    ]),
    ("sport", &["race to the old oak", "swimming race", "sack race", "race around the lake", "race up the hill", "boat race"]),
    ("days", &["two", "three", "four", "five", "six", "seven", "ten"]),
];
