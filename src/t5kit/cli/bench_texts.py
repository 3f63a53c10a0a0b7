"""What `t5kit bench` asks where the user names no texts: our own, of the kinds that T5 models are trained for."""

SAMPLE_TEXTS = (
    "summarize: The library keeps every table in memory and writes changes to a journal, so that a crash loses "
    "nothing.",
    "translate English to German: The house is small, but the garden behind it is wonderful in spring.",
    "summarize: A tool for looking through large log files. It shows new lines as they come, marks errors in "
    "colour, and can follow several files at once. Searches run in the background and can be stopped at any "
    "time.",
    "Answer the question. Where is the harbour? The ferry leaves the old harbour, which lies north of the city,"
    " at noon.",
    "translate English to French: Please close the window before you leave the room.",
    "Is this review positive or negative? The film is far too long, and its ending explains nothing.",
    "summarize: Several people reported last week that the night train stopped for hours in the open country. "
    "The company says that a tree had fallen on the line, and that passengers will get half of their money "
    "back.",
    "Correct the spelling: The wether was so bad that nobody whent out.",  # codespell:ignore wether,whent
    "translate English to German: Anna Lindqvist and Peter Sorensen opened the exhibition in Gothenburg on Monday.",
    "What is the capital of the country in which the river Thames flows?",
    "summarize: Bread needs flour, water, salt and time. Mix the first three, wait until the dough has doubled,"
    " fold it twice, and bake it in a very hot oven. Steam in the first ten minutes makes the crust thin and "
    "crisp.",
    "Name three animals that live both in water and on land.",
    "translate English to French: The committee will publish its report on the state of the forests in September.",
    "summarize: This package holds the documentation. Install it to read the manual without a connection.",
    "Write a short title for this text: After forty years the bridge over the gorge is being painted again, "
    "this time in the green that it had when it was built.",
    "Is the second sentence true if the first one is? All shops are closed today. The bakery is open today.",
)
