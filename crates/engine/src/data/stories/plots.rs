//! The plots: each is a row of beats, each beat a choice of ways to tell it.
//!
//! `{slot}` is a word of the cast or of a list, the same one throughout a story, and `{Slot}` begins
//! a sentence; a number tells apart two words of one list. An empty way leaves the beat out. The
//! article is always written `a`.
//!
//! Cast: `n`, `he`, `him`, `his`, `himself`, `kind` are the hero; with `f` before them the friend
//! (`f` alone is the name); `el` is the grown-up, with `ehe`, `ehim`, `ehis`.

pub(super) type Beat = &'static [&'static str];
pub(super) type Plot = &'static [Beat];

pub(super) const OPENING: Beat = &[
    "Once upon a time, there was a {trait} {kind} named {n}.",
    "Once there was a {size} {kind} called {n}.",
    "{n} was a {trait} {kind} who lived {home.in}.",
    "There once was a {trait} {kind} whose name was {n}.",
    "A {size} {kind} named {n} lived with {his} {el} {home.in}.",
    "Long ago, a {trait} {kind} lived {home.in}. {His} name was {n}.",
    "Everyone who lived {home.in} knew {n}, the {trait} {kind}.",
    "This is the story of {n}, a {size} {kind} who lived {home.in}.",
];

pub(super) const DETAIL: Beat = &[
    "",
    "",
    "{He} loved {hobby}.",
    "{He} liked {hobby} more than anything else.",
    "Every day, {he} spent hours {hobby}.",
    "{His} favorite food was {meal}, and {he} loved {hobby}.",
    "{He} was good at {hobby}.",
];

const LOST: Plot = &[
    &[
        "{n} had a {color} {treasure}. It was a gift from {his} {el}, and {he} took it everywhere.",
        "{He} had a {color} {treasure} that {he} loved very much.",
        "Of all {his} things, {he} liked {his} {color} {treasure} best.",
        "For {his} birthday, {n} got a {color} {treasure} from {his} {el}.",
    ],
    &[
        "One {weather} {time}, the {treasure} was gone.",
        "But one {weather} {time}, {n} could not find the {treasure} anywhere.",
        "One {time}, after a walk {place.in}, {n} saw that the {treasure} was missing.",
        "Then, on a {weather} {time}, {he} reached for the {treasure} and it was not there.",
    ],
    &[
        "{He} looked {spot.in}. {He} looked {spot2.in}. It was not there.",
        "{n} searched {spot.in} and {spot2.in}, but {he} found only dust.",
        "First {he} looked {spot.in}, then {spot2.in}, and then {spot3.in}. Nothing!",
        "\"Where can it be?\" {he} asked. {He} looked {spot.in}, but the {treasure} was not there.",
    ],
    &[
        "{n} felt {sad}. A tear rolled down {his} cheek.",
        "{He} sat down on the floor and began to cry.",
        "{n} was very {sad}, and {he} did not want to eat {his} {meal}.",
        "\"I will never see it again,\" {he} said in a small voice.",
    ],
    &[
        "{His} friend {f}, a {trait2} {fkind}, came by. \"Why are you {sad}?\" asked {f}. \"I lost my {treasure},\" said {n}.",
        "Then {f} the {fkind} knocked on the door. When {fhe} heard the story, {fhe} said, \"I will help you look.\"",
        "{n} told {his} friend {f} about it. \"Let us think,\" said {f}. \"Where did you go yesterday?\"",
        "\"Do not cry,\" said {his} friend {f}. \"Two can look better than one.\"",
    ],
    &[
        "Together they went {place.to}. They looked left and right, high and low.",
        "They walked {place.to}, because {n} had played there the day before.",
        "\"I was {place.in} yesterday,\" said {n}. So they went there hand in hand.",
        "The two friends walked slowly {place.to} and looked at every stone.",
    ],
    &[
        "And there, {hidden.in}, something {color} was shining. It was the {treasure}!",
        "Suddenly {f} stopped. \"Look!\" {fhe} shouted. The {treasure} lay {hidden.in}.",
        "{f} looked {hidden.in} and laughed. \"Is this yours?\" {fhe} asked. It was the {treasure}!",
        "A {pet} was sitting {hidden.in}, and next to it lay the {color} {treasure}.",
    ],
    &[
        "{n} jumped for joy and hugged {f}. \"Thank you!\" {he} said. \"You are a true friend.\"",
        "{n} held the {treasure} tight. From that day on, {he} always put it in a safe place.",
        "{n} was so {proud} that {he} gave {f} {gift}. They laughed all the way home.",
        "\"I could not have found it without you,\" said {n}. And {f} smiled.",
    ],
];

const GOAL: Plot = &[
    &[
        "More than anything, {n} wanted to {goal}.",
        "{n} had one big dream. {He} wanted to {goal}.",
        "One {weather} {time}, {n} said to {his} {el}, \"I want to {goal}.\"",
        "Every night before bed, {n} thought about one thing. {He} wanted to {goal}.",
    ],
    &[
        "\"That is a long way,\" said {his} {el}. \"Take {f} with you.\"",
        "{His} {el} packed a {treat} for the trip and kissed {him} on the nose.",
        "So {he} asked {his} friend {f} to come along. {f} was a {trait2} {fkind} who was never afraid.",
        "{n} put on {his} boots, took a {treat}, and called {his} friend {f}, the {fkind}.",
    ],
    &[
        "They walked and walked. But then {obstacle}.",
        "At first the way was easy. Then {obstacle}.",
        "They had not gone far when they had to stop, because {obstacle}.",
        "The two of them sang as they walked {place.to}. But soon {obstacle}.",
    ],
    &[
        "\"Oh no,\" said {n}. \"We will never do it.\" {He} sat down and felt {sad}.",
        "{n} tried once. {He} tried twice. It did not work.",
        "\"Maybe we should go home,\" said {n}. {His} feet hurt, and {he} was {sad}.",
        "{n} kicked a stone. \"This is too hard for me,\" {he} said.",
    ],
    &[
        "But {f} had an idea. \"We can {idea},\" {fhe} said.",
        "{f} thought for a while. \"What if we {idea}?\" {fhe} asked.",
        "Just then a {pet} came by. \"Do not give up,\" it said. \"You could {idea}.\"",
        "\"Wait,\" said {f}. \"My {el2} always told me to {idea}.\"",
    ],
    &[
        "It took a long time, but in the end it worked.",
        "They worked until the sun was low, and at last they could go on.",
        "So they did just that. Slowly, step by step, they came to the other side.",
        "They helped each other, and soon the way was free.",
    ],
    &[
        "And so {n} got to {goal}. It was even more beautiful than in {his} dreams.",
        "\"We did it!\" shouted {n}. {He} danced in a circle, and {f} clapped {fhis} hands.",
        "When they came home in the evening, {n} was tired but very {proud}.",
        "That night, {n} told {his} {el} everything. \"Nothing is too hard with a good friend,\" {he} said.",
    ],
];

const SHARE: Plot = &[
    &[
        "One {weather} {time}, {his} {el} gave {him} a {treat}. It smelled so good!",
        "One {time}, {n} bought a {treat} at the market. It was the last one.",
        "{n} had a big {treat} for lunch. {He} sat down {place.in} to eat it.",
        "On a {weather} {time}, {n} carried a {treat} {place.to} and could not wait to eat it.",
    ],
    &[
        "Then {he} saw {f}, a {fkind} who lived nearby. {f} looked {sad}.",
        "Just as {he} opened {his} mouth, {he} saw {f} the {fkind}. {f} had nothing to eat.",
        "Next to {him} sat a {fkind} named {f}. {f} looked at the {treat} with big eyes.",
        "{f} the {fkind} came along the path. \"I forgot my lunch at home,\" {fhe} said quietly.",
    ],
    &[
        "{n} looked at the {treat}. {He} was very hungry. What should {he} do?",
        "\"If I share it, there will be less for me,\" {n} thought.",
        "At first {n} wanted to hide the {treat} behind {his} back.",
        "{n} thought about it for a moment. {He} remembered how it felt to be hungry.",
    ],
    &[
        "Then {he} smiled. \"Come and sit with me,\" {he} said. \"You can have half.\"",
        "\"Would you like some?\" {n} asked, and {he} gave {f} the bigger piece.",
        "{He} broke the {treat} in two and held out one half. \"This is for you,\" {he} said.",
        "So {n} cut the {treat} into two parts. \"One for you and one for me,\" {he} said.",
    ],
    &[
        "{f} was so {proud} that {fhe} nearly cried. \"Thank you,\" {fhe} said. \"You are very kind.\"",
        "{f} took a bite and laughed. \"This is the best {treat} in the world!\" {fhe} said.",
        "They ate slowly and talked about {hobby2}. {f} knew many good stories.",
        "The two of them ate together, and somehow it tasted better than ever.",
    ],
    &[
        "",
        "The next day, {f} came back with {gift}. \"Now I want to share with you,\" {fhe} said.",
        "After that they played with a {color} {toy} until the sun went down.",
        "A few days later, it was {n} who had no lunch. But {f} was there, and {fhe} shared all {fhe} had.",
    ],
    &[
        "From that day on, {n} and {f} were the best of friends.",
        "{n} learned that a thing you share makes two hearts glad.",
        "\"Half of it was enough,\" said {n} to {his} {el} that night, \"because now I have a friend.\"",
        "And {n} found out that sharing is sweeter than any {treat}.",
    ],
];

const FEAR: Plot = &[
    &[
        "There was only one thing that {n} did not like. {He} was afraid of {fear}.",
        "But {n} had a secret. {He} was afraid of {fear}.",
        "{n} was not afraid of spiders or mice, but {he} was afraid of {fear}.",
    ],
    &[
        "Whenever {he} thought of it, {his} knees began to shake.",
        "The others laughed about it, and that made {him} {sad}.",
        "{He} had never told anyone, not even {his} {el}.",
        "At night {he} pulled the blanket over {his} head.",
    ],
    &[
        "One {weather} {time}, {his} friend {f} the {fkind} called for help. {Fhe} had lost {fhis} {color} {toy}, and {fhe} could not get it back alone.",
        "One {time}, {his} {el} said, \"Come, take my hand. We will look at it together.\"",
        "Then {his} friend {f}, a {trait2} {fkind}, said, \"I used to be afraid of {fear} too.\"",
        "One {time}, a little {pet} got lost, and {n} was the only one who could help it.",
    ],
    &[
        "{n} took a deep breath. \"I can do it,\" {he} whispered.",
        "{His} heart was beating fast. {He} counted to ten and took one small step.",
        "\"What if something bad happens?\" asked {n}. \"Then we will face it together,\" was the answer.",
        "{n} closed {his} eyes, and then {he} opened them again. \"I will try,\" {he} said.",
    ],
    &[
        "One step, then two, then three. Nothing bad happened.",
        "{He} sang a song very softly, and with each line {he} felt a little braver.",
        "It was strange at first. But after a while it was not so bad.",
        "{He} looked around. There was nothing to be afraid of after all.",
    ],
    &[
        "\"I did it!\" {n} shouted. {He} laughed out loud.",
        "When it was over, {n} stood up straight and smiled.",
        "Soon {n} felt warm and strong inside.",
        "\"You were very brave,\" said {his} {el}. {n} nodded and smiled.",
    ],
    &[
        "After that, {n} was no longer afraid of {fear}.",
        "{n} learned that being brave does not mean that you are never afraid. It means that you try anyway.",
        "And when someone else was afraid, {n} took their hand and said, \"Come, we will do it together.\"",
        "That night {he} slept well, and {he} dreamed of new adventures.",
    ],
];

const FRIEND: Plot = &[
    &[
        "{n} had no one to play with. {His} friends had all gone away for the summer.",
        "{n} had just moved to a new home, and {he} felt a little lonely.",
        "One {weather} {time}, {n} walked alone {place.to}.",
        "\"I wish I had a friend,\" {n} said one {weather} {time}.",
    ],
    &[
        "{Place.in} {he} heard a soft cry. It came from a small {lonely} {hidden.in}.",
        "There {he} saw a little {lonely}. It was all alone {hidden.in}.",
        "Then something moved {hidden.in}. It was a {lonely} with big, round eyes.",
        "On the way {he} met a {lonely} that had lost its mother.",
    ],
    &[
        "\"Hello,\" said {n}. \"Are you lost?\" The {lonely} looked up and shivered.",
        "The {lonely} was cold and hungry. \"Do not be afraid,\" said {n} gently.",
        "{n} sat down in the grass and waited. Slowly the {lonely} came closer.",
        "\"You poor thing,\" said {n}. {He} held out {his} hand, and the {lonely} sniffed at it.",
    ],
    &[
        "{He} gave it some water and half of {his} {treat}.",
        "{He} put {his} scarf around it and carried it home.",
        "{He} made a soft bed for it in a basket and covered it with a {color} blanket.",
        "{n} fed it and brushed it until it was warm and dry.",
    ],
    &[
        "\"May it stay with us?\" {he} asked {his} {el}. {El} thought for a while and then said yes.",
        "{His} {el} smiled. \"We will take good care of it,\" {ehe} said.",
        "They looked for its family for {days} days, but no one came. So the {lonely} stayed.",
        "After {days} days the {lonely} was strong enough to run and jump.",
    ],
    &[
        "From then on they did everything together. They ran {place.to} and played with a {color} {toy}.",
        "Every morning, the {lonely} waited at the door, and they ran {place.to}.",
        "{n} taught it to catch a {color} {toy}, and it taught {him} to be patient.",
        "Whenever {n} was {sad}, the {lonely} laid its head on {his} lap.",
    ],
    &[
        "{n} was never lonely again.",
        "{n} had wished for a friend, and now {he} had the best one of all.",
        "And that is how {n} and the {lonely} became friends.",
        "\"You found me,\" {n} whispered, \"just as I found you.\"",
    ],
];

const STORM: Plot = &[
    &[
        "One {weather} {time}, {n} and {his} friend {f}, a {trait2} {fkind}, went for a walk {place.to}.",
        "On a {weather} {time}, {n} wanted to have a picnic {place.in} with {f} the {fkind}.",
        "One {time}, {n} went {place.to} with {f}, a {fkind} who lived next door. They took a {treat} with them.",
    ],
    &[
        "They picked a {flower}, watched a {pet}, and played with a {color} {toy}.",
        "They lay in the grass and found shapes in the clouds. One looked like a ship and one like a whale.",
        "They ran and laughed and did not look at the sky.",
        "They were having so much fun that they forgot the time.",
    ],
    &[
        "Suddenly {sky}.",
        "Then, all at once, {sky}.",
        "But after a while {sky}, and it became cold.",
        "Just when they wanted to eat, {sky}.",
    ],
    &[
        "\"We have to hide!\" called {f}. They ran as fast as they could.",
        "{n} was {sad}. \"Our day is spoiled,\" {he} said.",
        "\"Take my hand,\" said {n}, \"so that we do not lose each other.\"",
        "{f} began to shiver, so {n} gave {fhim} {his} coat.",
    ],
    &[
        "They found a dry spot {shelter.in} and sat close together.",
        "At last they came to a safe place {shelter.in}.",
        "{Shelter.in} it was dry and warm. They looked out and waited.",
    ],
    &[
        "To pass the time, they told stories and shared a {treat2}.",
        "A small {pet2} was there too. \"You can stay with us,\" said {n}.",
        "They sang every song they knew, and soon they had forgotten about the weather.",
        "{f} made faces until {n} had to laugh.",
    ],
    &[
        "When they looked out again, the sun was back, and a rainbow stood over {place}.",
        "At last the sky was clear. The air smelled fresh, and every leaf was shining.",
        "After an hour it was over. \"Look at all the puddles!\" cried {f}, and they jumped into every one.",
    ],
    &[
        "\"That was the best day ever,\" said {n} on the way home.",
        "At home, {his} {el} gave them {meal}, and they told {ehim} everything.",
        "{n} learned that even a bad day can be good when you have a friend.",
        "And from then on, they were not afraid of a little bad weather.",
    ],
];

const BUILD: Plot = &[
    &[
        "One {weather} {time}, {n} wanted to make a {build}.",
        "\"Today I will make a {build},\" said {n} one {weather} {time}.",
        "{n} had seen a {build} {place.in}, and {he} wanted one too.",
        "{n} wanted to surprise {his} {el}, so {he} began to make a {build}.",
    ],
    &[
        "{He} looked for everything {he} needed and put it in a pile.",
        "{He} worked all morning and did not even stop for lunch.",
        "{He} used sticks, string, and an old {color} blanket.",
        "{He} was in a hurry, because {he} wanted to be done before dinner.",
    ],
    &[
        "But when it was almost ready, it fell apart with a loud crash.",
        "Then a strong wind came, and the {build} broke in two.",
        "But the first one was crooked, and the second one was even worse.",
        "Just then a {pet} bumped into it, and everything fell down.",
    ],
    &[
        "\"I give up!\" cried {n}. {He} was {sad} and angry at the same time.",
        "{n} stared at the mess. {He} wanted to run away.",
        "{n} sat down and put {his} head in {his} hands.",
        "\"All that work for nothing,\" {he} said and kicked the ground.",
    ],
    &[
        "{f}, a {trait2} {fkind}, had seen it all. \"May I help you?\" {fhe} asked.",
        "{His} {el} sat down next to {him}. \"I broke many things before I made a good one,\" {ehe} said.",
        "{His} friend {f} the {fkind} came over. \"It only needs a stronger bottom,\" {fhe} said.",
        "{His} {el} looked at the pieces. \"Now you know what does not work,\" {ehe} said. \"That is worth a lot.\"",
    ],
    &[
        "So {n} began again. This time {he} went slowly and checked every part.",
        "They started once more, and one held while the other tied the knots.",
        "{n} wiped {his} tears away and tried again. Piece by piece, it grew.",
        "The second time was easier, because now {he} knew how to do it.",
    ],
    &[
        "When the sun went down, the {build} was ready. It was strong and beautiful.",
        "In the end there stood the finest {build} that anyone had ever seen.",
        "At last it was done. \"Look!\" shouted {n}. \"It holds!\"",
    ],
    &[
        "{n} was very {proud}. {He} had learned not to give up.",
        "Everyone came to see it, and {n} told them how many times it had fallen down.",
        "\"The trick,\" {n} said later, \"is to try one more time.\"",
        "That evening they had {meal} and looked at the {build} until it was dark.",
    ],
];

const HELP: Plot = &[
    &[
        "One {weather} {time}, {n} was on {his} way {place.to}.",
        "One {time}, {n} wanted to play {place.in} with {his} {color} {toy}.",
        "{n} was walking home one {weather} {time}, and {he} was hungry.",
        "{n} was in a hurry one {time}, because {f} the {fkind} was waiting for {him} {place.in}.",
    ],
    &[
        "On the road {he} met the {elderly}, who was carrying {load}.",
        "There {he} saw the {elderly} with {load}. It was much too much for one person.",
        "Near the bridge stood the {elderly}. \"Oh dear,\" said the {elderly}. \"How will I get {load} home?\"",
        "Then {he} heard a loud noise. The {elderly} had dropped {load} on the road.",
    ],
    &[
        "\"May I help you?\" asked {n}.",
        "{n} stopped. {He} wanted to play, but {he} could not just walk past. \"I will help you,\" {he} said.",
        "\"Wait,\" called {n}, \"I have two good hands!\"",
        "{n} was small, but {he} was not afraid of hard work.",
    ],
    &[
        "Together they lifted it and carried it all the way {place2.to}.",
        "They picked up everything, one thing at a time, and did not leave anything behind.",
        "The way was long, and the hill was steep, but {n} did not complain.",
        "{n} pushed, and the {elderly} pulled, and little by little they got there.",
    ],
    &[
        "\"You are a good {kind},\" said the {elderly}. \"What can I give you?\" \"Nothing,\" said {n}. \"I was glad to help.\"",
        "When they were done, the {elderly} smiled and gave {n} {gift}.",
        "\"Thank you,\" said the {elderly}. \"Not everyone would have stopped.\"",
        "The {elderly} laughed with joy and asked {n} to stay for {meal}.",
    ],
    &[
        "",
        "{n} came too late to play, but {f} was not angry. \"You did the right thing,\" said {f}.",
        "When {n} told {his} {el} about it, {ehe} gave {him} a big hug.",
        "A week later {n} lost {his} way {place.in}. And who brought {him} home? It was the {elderly}.",
    ],
    &[
        "{n} went home with a light heart.",
        "Helping others made {n} feel warm inside.",
        "From then on, {n} always had time to help.",
        "And {n} learned that small hands can do big things.",
    ],
];

const SURPRISE: Plot = &[
    &[
        "It was almost the birthday of {his} {el}, and {n} wanted to give {ehim} something special.",
        "{His} {el} had been sick for {days} days. {n} wanted to make {ehim} smile.",
        "One {weather} {time}, {n} had an idea. {He} wanted to surprise {his} {el}.",
    ],
    &[
        "But {he} had no money at all.",
        "\"What would make {ehim} happy?\" {he} asked {f}, the {fkind}. They thought and thought.",
        "\"I will make {meal} all by myself,\" {he} said.",
        "{He} wanted to pick the most beautiful {flower} in the valley.",
    ],
    &[
        "So {he} got up very early, when the house was still dark.",
        "{He} walked {place.to} and looked for the right thing.",
        "{He} asked {f} for help, and the two of them worked in secret.",
        "{He} put on an apron and tried to be very quiet.",
    ],
    &[
        "But then {he} dropped a bowl, and there was flour all over the floor.",
        "On the way back {he} fell into the mud. Oh, what a mess!",
        "Everything went wrong. The milk boiled over, and the bread was black.",
        "Just before {he} was done, {he} heard steps on the stairs.",
    ],
    &[
        "{n} was {sad}. \"Now the surprise is ruined,\" {he} thought.",
        "\"Quick!\" whispered {f}, and they hid everything {spot.in}.",
        "{n} wanted to cry, but then {he} took a deep breath and started again.",
        "\"It does not have to be perfect,\" said {f}. \"It only has to come from you.\"",
    ],
    &[
        "In the end {he} had {gift} and a card with a big {color} heart on it.",
        "At last everything was ready, and {n} had even painted a picture of a {flower}.",
        "In the end the table was set, and a {flower2} stood in the middle.",
    ],
    &[
        "When {his} {el} came in, {ehe} could not believe {ehis} eyes. \"Is this for me?\" {ehe} asked.",
        "\"Surprise!\" shouted {n}. {His} {el} laughed and cried at the same time.",
        "{His} {el} looked at it for a long time. Then {ehe} gave {n} the biggest hug in the world.",
    ],
    &[
        "\"It is the best gift I ever got,\" {ehe} said, \"because you made it with love.\"",
        "They sat together and ate {meal}, and {n} was {proud} all day.",
        "And {n} knew that the best gifts do not come from a shop.",
    ],
];

const HONEST: Plot = &[
    &[
        "One {weather} {time}, {n} was playing with a {color} {toy} inside the house, even though {his} {el} had told {him} not to.",
        "One {time}, {n} ran through the kitchen much too fast.",
        "{n} was alone at home one {weather} {time}, and {he} was bored. {He} began to throw {his} {toy} in the air.",
    ],
    &[
        "Crash! The {breakable} was broken.",
        "There was a loud noise. {n} had broken the {breakable}.",
        "Before {he} knew it, the {breakable} lay on the floor in a hundred pieces.",
    ],
    &[
        "{n} was scared. Quickly {he} hid the pieces {spot.in}.",
        "\"Oh no,\" thought {n}. \"{El} will be so angry with me.\" {He} hid everything {spot.in}.",
        "{n} swept up the pieces and hid them {spot.in}. {His} hands were shaking.",
    ],
    &[
        "When {his} {el} came home, {ehe} asked, \"Who broke the {breakable}?\" {n} looked at the floor.",
        "In the evening, {his} {el} saw that the {breakable} was gone. \"Do you know where it is?\" {ehe} asked. \"No,\" said {n}.",
        "At dinner, {n} could not eat. {His} stomach felt as if a stone were in it.",
    ],
    &[
        "\"Maybe it was the wind,\" {n} said. But {he} felt bad as soon as {he} had said it.",
        "That night {n} could not sleep. {He} turned from one side to the other.",
        "{n} asked {his} friend {f} the {fkind} what to do. \"Tell the truth,\" said {f}. \"It is hard, but then it is over.\"",
    ],
    &[
        "At last {n} said, \"It was me. I broke it, and I am very sorry.\"",
        "So {he} went to {his} {el}, took a deep breath, and told {ehim} the truth.",
        "Then {he} could not hold it in any longer. \"I did it,\" {he} said, and tears ran down {his} face.",
    ],
    &[
        "{His} {el} was quiet for a moment. \"I am not happy about the {breakable},\" {ehe} said, \"but I am proud that you told me.\"",
        "\"Thank you for telling me,\" said {his} {el} and took {him} in {ehis} arms. \"We will fix it together.\"",
        "{His} {el} sighed. Then {ehe} smiled. \"A {breakable} can be mended,\" {ehe} said. \"Trust is harder to mend.\"",
    ],
    &[
        "They glued the pieces together that same evening. {n} felt as light as a feather.",
        "After that, {n} always told the truth, even when it was hard.",
        "To make up for it, {n} helped to {family_work} for a whole week.",
        "And {n} learned that the truth feels better than any lie.",
    ],
];

const GROW: Plot = &[
    &[
        "One {weather} {time} in spring, {n} found a small seed {hidden.in}.",
        "One {time}, the {elderly} gave {n} a little brown seed. \"Take good care of it,\" said the {elderly}.",
        "{n} got a seed from {his} {el}. \"What will it be?\" {he} asked. \"Wait and see,\" {ehe} said.",
    ],
    &[
        "{n} dug a hole in the garden and put the seed into the dark earth.",
        "{He} put the seed into a {color} pot and set it in the sun.",
        "{He} planted it next to the fence, where the sun was warm.",
    ],
    &[
        "Every day {he} gave it water. But nothing happened.",
        "The next morning {he} ran outside to look. There was nothing but earth.",
        "{He} waited for {days} days. {He} looked at it in the morning and in the evening. Nothing!",
    ],
    &[
        "\"It does not like me,\" said {n}. {He} was {sad}.",
        "{f}, a {trait2} {fkind}, laughed at {him}. \"There is nothing in there,\" said {f}.",
        "\"Maybe I did something wrong,\" {n} said to {his} {el}. \"Good things take time,\" {ehe} answered.",
        "{n} wanted to dig it up, but {his} {el} said, \"Be patient.\"",
    ],
    &[
        "So {n} sang to it and told it stories about {hobby2}.",
        "{n} kept on giving it water, even when it rained in {his} boots.",
        "When a cold night came, {he} covered it with leaves.",
        "{n} built a little fence around it, so that no {pet} could step on it.",
    ],
    &[
        "And then, one morning, there was a tiny green leaf.",
        "After a long time, something green looked out of the ground.",
        "One day {n} saw it. A small green tip had come up in the night!",
    ],
    &[
        "It grew and grew, until it was as tall as {n}. It was a {plant}!",
        "Week after week it grew, and in summer it was a big {plant}.",
        "By the end of summer, it had become the most beautiful {plant} in the whole village.",
    ],
    &[
        "{n} was {proud}. \"I waited, and it came,\" {he} said.",
        "Even {f} came to see it. \"I am sorry that I did not believe you,\" said {f}.",
        "In autumn {n} kept some new seeds, and {he} gave one to each of {his} friends.",
        "And {n} learned that good things need time and care.",
    ],
];

const SLEEP: Plot = &[
    &[
        "One night, {n} could not sleep. It was late, and {night}.",
        "It was bedtime, but {n} was wide awake. Outside, {night}.",
        "\"Good night,\" said {his} {el} and turned out the light. But {n} was not tired at all.",
    ],
    &[
        "{He} counted sheep. {He} counted to a hundred. It did not help.",
        "{He} turned to the left. {He} turned to the right. The pillow was too warm.",
        "{He} drank some water and looked out of the window.",
        "{He} thought about {hobby2} and about {meal}, and that made {him} even more awake.",
    ],
    &[
        "Then {he} heard a strange noise. Something was {noise} {spot.in}.",
        "All of a sudden there was a {noise} sound. It came from {place2}.",
        "What was that? Something was {noise} outside the window.",
    ],
    &[
        "\"Who is there?\" whispered {n}. {His} heart beat fast.",
        "{n} took {his} {toy} in one hand and a lamp in the other.",
        "{n} called {his} friend {f}, the {fkind}, who was sleeping in the same room. \"Did you hear that?\"",
        "{n} pulled the blanket up to {his} nose and listened.",
    ],
    &[
        "Slowly {he} went closer. And what did {he} see? It was only a small {pet} that could not sleep!",
        "{He} lit the lamp. A little {pet} looked at {him} with big eyes.",
        "Then {he} began to laugh. It was a {pet} that was looking for something to eat.",
    ],
    &[
        "\"You cannot sleep either?\" asked {n}. {He} gave it a bit of {his} {treat}.",
        "\"Come here,\" said {n}. \"We can be awake together.\"",
        "{n} sat down next to it, and they looked at the moon.",
        "So {n} told it a story about a {elderly} who sailed to the stars.",
    ],
    &[
        "Before the story was over, the {pet} was asleep. And {n} was asleep too.",
        "Soon {his} eyes grew heavy. {He} went back to bed and slept until morning.",
        "The {pet} yawned, and {n} yawned, and then everything was still.",
    ],
    &[
        "In the morning, {his} {el} found them side by side and smiled.",
        "From then on, {n} liked the night, because {he} knew that {he} was not the only one awake.",
        "When the sun came up, {n} felt fresh and {proud}.",
    ],
];

const RACE: Plot = &[
    &[
        "Once a year there was a {sport}. This time {n} wanted to win.",
        "\"Tomorrow is the {sport},\" said {n}. {He} had practiced for {days} weeks.",
        "One {weather} {time}, everyone came together for the {sport}.",
    ],
    &[
        "{f} the {fkind} wanted to win as well. {Fhe} was fast and strong.",
        "\"I will be first,\" said {f}, a {trait2} {fkind}. \"We will see,\" said {n}.",
        "{His} friend {f}, a {fkind}, wished {him} good luck.",
    ],
    &[
        "\"One, two, three, go!\" shouted the {elderly}. Off they went.",
        "The {elderly} rang a bell, and everybody started.",
        "A whistle blew. {n} was off like the wind.",
    ],
    &[
        "At first {n} was far behind, but {he} did not stop. Soon {he} was close to {f}.",
        "{n} and {f} were faster than all the others. They were side by side.",
        "{n} could already see the end. Only {f} was in front of {him}.",
    ],
    &[
        "Then {f} tripped and fell. \"Ouch!\" {fhe} cried. {Fhe} could not get up.",
        "Suddenly {f} cried out. {Fhe} had hurt {fhis} foot.",
        "All at once {f} slipped in the mud and sat there, holding {fhis} knee.",
    ],
    &[
        "Now {n} could win! But {he} looked back and saw that {f} was crying.",
        "{n} thought of the prize, {gift}. Then {he} thought of {his} friend.",
        "The others ran past them. {n} wanted to run too, but {his} heart said no.",
    ],
    &[
        "{n} turned around. \"Put your arm around me,\" {he} said.",
        "{n} stopped and helped {f} up. \"Lean on me,\" {he} said. \"We will finish together.\"",
        "So {he} went back and tied {his} scarf around the hurt leg of {his} friend.",
    ],
    &[
        "They came in last, but everyone clapped for them.",
        "Arm in arm they crossed the line, and nobody cheered louder than {his} {el}.",
        "They did not win the prize. But the {elderly} gave them {gift} and said, \"You are the real winners.\"",
    ],
    &[
        "\"Next year we will run together again,\" said {f}, and {n} laughed.",
        "And {n} knew that a friend is worth more than any prize.",
        "That evening they ate {meal} together and laughed about the mud.",
    ],
];

const WANDER: Plot = &[
    &[
        "\"Do not go too far,\" said {his} {el} one {weather} {time}. \"I will not,\" said {n}.",
        "One {weather} {time}, {n} saw a {color} {pet} and wanted to follow it.",
        "One {time}, {n} was looking for berries {place.in}.",
    ],
    &[
        "But {he} saw a {flower} here and a {flower2} there, and {he} walked on and on.",
        "It led {him} over a bridge, around a rock, and deep into the woods.",
        "{He} looked only at the ground and not at the way.",
    ],
    &[
        "When {n} looked up, {he} did not know where {he} was.",
        "After a while all the trees looked the same. {n} was lost.",
        "Then it became dark, and {n} could not find the path.",
    ],
    &[
        "\"Hello!\" {he} called. Only the wind answered.",
        "{He} was {sad} and a little bit afraid. \"I should have listened,\" {he} said.",
        "{n} wanted to cry. {He} thought of {his} warm bed and of {meal}.",
    ],
    &[
        "{n} remembered what {his} {el} had taught {him}. \"If you are lost, stay calm and follow the water.\"",
        "Then a {pet2} came out of the bushes. \"I know these woods,\" it said. \"Come with me.\"",
        "{n} climbed onto a rock and looked around. Far away there was a small light.",
        "Then {he} heard a voice. It was {f} the {fkind}, who had come to look for {him}.",
    ],
    &[
        "So {he} followed the little stream, past the rocks and over the roots.",
        "Step by step {n} went on, and {he} was careful not to fall.",
        "They walked for a long time, and to feel better they sang a song.",
    ],
    &[
        "At last {he} saw the lights of home. {His} {el} was standing at the door with a lantern.",
        "And there, behind the last tree, was {his} house!",
        "Before the moon was high, {n} was home again.",
    ],
    &[
        "\"I was so worried,\" said {his} {el} and held {him} tight. \"I am sorry,\" said {n}. \"I will not go so far again.\"",
        "{His} {el} gave {him} {meal} and a warm blanket, and {n} promised to be more careful.",
        "{n} learned to look at the way and not only at the flowers.",
        "That night {n} was happy to lie in {his} own bed.",
    ],
];

const SKILL: Plot = &[
    &[
        "All {his} friends had learned {skill}. Only {n} could not do it.",
        "{n} wanted to learn {skill}.",
        "\"I want to learn {skill},\" {n} said to {his} {el} one {weather} {time}.",
    ],
    &[
        "{He} tried it {place.in}, but it went wrong.",
        "The first time {he} tried, everybody laughed, and {his} ears turned red.",
        "{He} tried it once, twice, and three times. It did not work.",
        "{f} the {fkind} showed {him} how. It looked so easy when {f} did it.",
    ],
    &[
        "\"I am just too small,\" said {n}. {He} was {sad}.",
        "\"I will never learn it,\" {n} said and threw {himself} on the grass.",
        "{n} wanted to stop. {He} hid {spot.in} and did not come out for dinner.",
    ],
    &[
        "\"Nobody can do it on the first day,\" said {his} {el}. \"I needed a whole summer.\"",
        "\"Try a little every day,\" said {f}. \"Then one day it will be easy.\"",
        "A little {pet} was climbing up a wall. It fell down, and it started again. {n} watched it for a long time.",
        "{His} {el} sat down next to {him}. \"Show me,\" {ehe} said, \"and we will find out what is wrong.\"",
    ],
    &[
        "So {n} practiced every morning before breakfast.",
        "{n} got up and tried again. This time it was a little better.",
        "The next day {he} tried again, and the day after that, and the day after that.",
        "{n} practiced for {days} days. {He} fell down often, but {he} always got up.",
    ],
    &[
        "And one {weather2} {time}, it worked!",
        "Then, all at once, {he} could do it. \"Look at me!\" {he} shouted.",
        "On the last day of the week, {he} did it without any help.",
    ],
    &[
        "{f} clapped, and {his} {el} laughed with joy.",
        "{n} was so {proud} that {he} did it again and again until it was dark.",
        "Everyone came to watch, and this time nobody laughed.",
    ],
    &[
        "\"It was hard,\" said {n}, \"but I am glad that I did not stop.\"",
        "Later {n} met a small {kind2} who wanted to learn {skill} too. \"I will help you,\" {he} said.",
        "And {n} learned that you can do almost anything if you keep trying.",
    ],
];

const NOISE: Plot = &[
    &[
        "One {weather} {time}, {n} heard a {noise} sound. It came from {place}.",
        "Every {time}, {n} heard something {noise} {spot.in}. What could it be?",
        "One {time}, {n} found strange footprints {place.in}. They were small and round.",
    ],
    &[
        "\"Maybe it is a dragon,\" said {f}, a {trait2} {fkind}. \"Or a ghost!\"",
        "{n} told {his} friend {f} the {fkind} about it. \"Let us find out,\" said {f}.",
        "\"It is only the wind,\" said {his} {el}. But {n} did not think so.",
        "{n} and {his} friend {f} took a lamp and a long stick, just to be safe.",
    ],
    &[
        "They went on tiptoe and held their breath.",
        "They looked behind every tree and under every stone.",
        "They hid {hidden.in} and waited. They waited for a long time.",
        "First they looked {hidden.in}. Then they looked {hidden2.in}.",
    ],
    &[
        "There it was again! {f} grabbed the arm of {n}.",
        "Suddenly something moved. {n} nearly dropped the {treasure} that {he} was holding.",
        "A shadow ran across the path. \"Did you see that?\" whispered {f}.",
    ],
    &[
        "{n} took one more step. And then {he} saw it. It was a {lonely} with its foot stuck between two stones!",
        "It was no dragon and no ghost. It was a {lonely} that was playing with an old {color} {treasure}.",
        "Out came a very small {lonely}. It was more afraid of them than they were of it.",
    ],
    &[
        "\"So it was you!\" said {n} and laughed.",
        "\"Do not be afraid,\" said {n} softly. \"We will not hurt you.\"",
        "{n} knelt down and stroked its head. \"You gave us quite a fright,\" {he} said.",
    ],
    &[
        "They helped it and gave it some of their {treat}.",
        "They showed it the way home to its mother.",
        "They made it a small bed of leaves, and it fell asleep at once.",
    ],
    &[
        "From then on, whenever {n} heard the sound, {he} smiled.",
        "\"Things are less scary when you look at them closely,\" said {f}. {n} nodded.",
        "And the {lonely} came to visit them every {time}.",
        "That was the end of the mystery, and the start of a friendship.",
    ],
];

const QUARREL: Plot = &[
    &[
        "{n} and {f} the {fkind} were best friends. They played together every day.",
        "{n} had a good friend, a {fkind} named {f}.",
        "No one had ever seen {n} without {f}, the {trait2} {fkind}.",
    ],
    &[
        "One {weather} {time}, they found a {color} {toy} {hidden.in}. \"It is mine!\" said {n}. \"No, it is mine!\" said {f}.",
        "But one {time}, they both wanted to play with the same {color} {toy}.",
        "One {weather} {time}, they could not agree. {n} wanted to go {place.to}, but {f} wanted to go {place2.to}.",
    ],
    &[
        "They pulled and shouted, and neither of them would give in.",
        "\"You never do what I want!\" shouted {n}. \"You are not my friend anymore!\" said {f}.",
        "They became louder and louder. At last they turned their backs on each other.",
    ],
    &[
        "{n} went home and shut the door. But playing alone was no fun.",
        "For {days} days they did not say a word to each other. The days were long and gray.",
        "{n} tried to play alone, but there was no one to laugh with.",
    ],
    &[
        "\"What is wrong?\" asked {his} {el}. {n} told {ehim} everything. \"Who will say sorry first?\" {ehe} asked. \"The braver one.\"",
        "Then {n} saw an old picture of the two of them, and {he} felt {sad}.",
        "At night {n} thought about it. Had {f} really done anything so bad?",
    ],
    &[
        "So {n} took {gift} and went to the house of {his} friend.",
        "The next morning {n} ran {place.to}. And who was coming the other way? It was {f}!",
        "{n} wrote a letter. In it there were only three words, \"I am sorry.\"",
    ],
    &[
        "\"I am sorry,\" said {n}. \"I am sorry too,\" said {f}. Then both of them had to laugh.",
        "{f} opened the door. {Fhis} eyes were red. \"I missed you,\" {fhe} said. \"I missed you too,\" said {n}.",
        "\"I was wrong,\" said {n}. \"No, I was wrong,\" said {f}. They almost began to argue again!",
    ],
    &[
        "From then on they took turns, one day {n} and the next day {f}.",
        "They made up and shared a {treat}, and everything was good again.",
        "And they both knew that a friend is worth more than being right.",
    ],
];

/// All plots.
pub(super) const PLOTS: &[Plot] = &[
    LOST, GOAL, SHARE, FEAR, FRIEND, STORM, BUILD, HELP, SURPRISE, HONEST, GROW, SLEEP, RACE, WANDER, SKILL,
    NOISE, QUARREL,
];
