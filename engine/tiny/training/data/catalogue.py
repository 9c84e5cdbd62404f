"""Everyday tools, as agent developers write them first: weather, arithmetic, search, mail, files.

A `Family` is one kind of tool with the names it goes by, its parameters and natural ways to ask for it; an `Instance`
is one of these tools with one request for it. The values are drawn anew each time. Training's only: evaluation uses
tools whose names were never seen. Knows nothing of answers beyond the topic of a question.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from basemlx.engine.tiny.training.data import words
from basemlx.engine.tiny.training.data.naming import Namer
from basemlx.engine.tiny.training.data.tools import Parameter, Tool

Drawn = tuple[Any, str]  # what stands in the JSON, what the request says

_THINGS = (
    "the budget",
    "the new plan",
    "lunch",
    "the trip",
    "our meeting",
    "the contract",
    "the report",
    "Friday",
)


def _same(text: str) -> Drawn:
    return text, text


def _integer(low: int, high: int) -> Callable[[Namer], Drawn]:
    def draw(namer: Namer) -> Drawn:
        number = namer.integer(low, high)
        return number, str(number)

    return draw


def _one_of(options: Sequence[str]) -> Callable[[Namer], Drawn]:
    return lambda namer: _same(namer.rng.choice(options))


def _phrase(namer: Namer) -> Drawn:
    text = namer.phrase(2, 6)
    mark = namer.rng.choice(('"', "'"))
    return text, f"{mark}{text}{mark}"


def _topic(namer: Namer) -> Drawn:
    rng = namer.rng
    options = (
        namer.word(),
        f"{namer.pick(words.ADJECTIVES)} {namer.pick(words.NOUNS)}",
        f"{namer.pick(words.NOUNS)} {namer.pick(words.NOUNS)}",
        rng.choice(words.HOBBIES),
        namer.pick(words.ANIMALS),
    )
    return _same(rng.choice(options))


def _expression(namer: Namer) -> Drawn:
    rng = namer.rng
    text = str(namer.integer(0, 999))
    for _ in range(rng.randint(1, 2)):
        text += f" {rng.choice('+-*/')} {namer.integer(0, 999)}"
    return _same(text)


def _name(namer: Namer) -> Drawn:
    """A customer's or thing's name, in any script, mostly quoted."""
    rng = namer.rng
    text = (
        namer.foreign()
        if rng.random() < 0.35
        else namer.person()
        if rng.random() < 0.5
        else namer.phrase(1, 3)
    )
    mark = rng.choice(("'", '"', "'", ""))
    if mark == "" and " " in text:
        mark = '"'
    return text, f"{mark}{text}{mark}"


def _strings(namer: Namer) -> Drawn:
    items = [namer.word() for _ in range(namer.rng.randint(1, 4))]
    said = items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
    return items, said


def _integers(namer: Namer) -> Drawn:
    items = [namer.integer(0, 999) for _ in range(namer.rng.randint(2, 5))]
    return items, ", ".join([str(item) for item in items[:-1]]) + f" and {items[-1]}"


KINDS: dict[str, Callable[[Namer], Drawn]] = {
    "place": lambda namer: _same(namer.place()),
    "person": lambda namer: _same(namer.person()),
    "email": lambda namer: _same(namer.email()),
    "date": lambda namer: _same(
        namer.date() if namer.rng.random() < 0.6 else namer.rng.choice((*words.WEEKDAYS, "tomorrow", "today"))
    ),
    "time": lambda namer: _same(namer.clock()),
    "small": _integer(1, 20),
    "integer": _integer(0, 99999),
    "number": lambda namer: (lambda n: (n, str(n)))(
        namer.decimal() if namer.rng.random() < 0.3 else namer.integer(0, 9999)
    ),
    "phrase": _phrase,
    "topic": _topic,
    "expression": _expression,
    "name": _name,
    "id": lambda namer: _same(namer.identifier()),
    "word": lambda namer: _same(namer.word() if namer.rng.random() < 0.7 else namer.pick(words.NOUNS)),
    "file": lambda namer: _same(namer.path()),
    "url": lambda namer: _same(namer.url()),
    "language": _one_of(words.LANGUAGES),
    "currency": _one_of(words.CURRENCIES),
    "timezone": _one_of(words.TIMEZONES),
    "unit": _one_of(("celsius", "fahrenheit")),
    "level": _one_of(("low", "medium", "high")),
    "style": _one_of(("pirate", "formal", "friendly", "poetic", "robot", "casual", "royal", "cowboy")),
    "ticker": lambda namer: _same(
        "".join(namer.rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=namer.rng.randint(2, 5)))
    ),
    "food": lambda namer: _same(namer.pick(words.FOODS)),
    "item": lambda namer: _same(namer.pick(words.NOUNS)),
    "thing": _one_of(_THINGS),
    "strings": _strings,
    "integers": _integers,
}

# What a parameter of a kind is described as, beside "The name".
_DESCRIPTIONS = {
    "place": ("The city, e.g. Oslo", "The city and state, e.g. Austin, TX", "Name of the city", "City name"),
    "unit": ("Temperature unit", "The unit to use"),
    "person": ("Who it is for", "Full name"),
    "email": ("Email address", "A valid email address"),
    "date": ("The date, YYYY-MM-DD", "Day"),
    "time": ("Time as HH:MM", "When"),
    "phrase": ("Free text", "The text to use"),
    "number": ("A number",),
    "integer": ("An integer",),
    "topic": ("What to search for", "Search terms"),
    "id": ("The unique id",),
    "file": ("Path of the file",),
}
_JSON_TYPES = {
    "small": "integer",
    "integer": "integer",
    "number": "number",
    "strings": "array",
    "integers": "array",
}
_ENUMS = {"unit": ["celsius", "fahrenheit"], "level": ["low", "medium", "high"]}


@dataclass(frozen=True)
class Family:
    """`parameters`: "alias/alias:kind" with "?" behind optional ones. `{0}` in an ask is the first parameter's value.

    `topic` is what a question was about, for the answer; empty for a deed.
    """

    names: str
    descriptions: Sequence[str]
    parameters: str
    asks: Sequence[str]
    topic: str = ""


@dataclass(slots=True)
class Instance:
    tool: Tool
    arguments: dict[str, Any]
    ask: str
    topic: str
    family: int


FAMILIES: tuple[Family, ...] = (
    Family("get_weather weather getWeather get_current_weather current_weather", ("Get the current weather in a place.", "Get weather at a location.", "Returns the weather for a city", "Get the weather"), "location/city/place:place unit/units:unit?", ("What is the weather in {0}?", "What's the weather like in {0}?", "How is the weather in {0} today?", "weather in {0}", "Tell me the weather in {0}.", "Is it raining in {0}?", "Do I need an umbrella in {0}?", "What is the weather in {0} in {1}?", "How warm is it in {0}, in {1}?", "What is the temperature in {0} right now?", "Check the weather for {0}."), "the weather in {0}"),
    Family("get_forecast forecast weather_forecast", ("Weather forecast for a city for some days",), "city/location:place days:small", ("What is the {1} day forecast for {0}?", "Give me the forecast for {0} for the next {1} days.", "How will the weather be in {0} over {1} days?"), "the forecast for {0}"),
    Family("add add_numbers sum_two my_adder_tool adder plus", ("Add two numbers.", "Adds a and b", "Takes two integers, a and b, and returns their sum.", "Returns the sum of two numbers"), "a/x/first:number b/y/second:number", ("What is {0} + {1}?", "What is {0} plus {1}?", "Add {0} and {1}.", "Use the tool to add {0} and {1}.", "{0} + {1}", "What's the sum of {0} and {1}?", "Calculate {0} + {1}", "What is {0} + {1}? Use tools."), "{0} + {1}"),
    Family("multiply multiply_numbers times product", ("Multiply two numbers.", "Multiplies a and b", "Returns the product of two integers"), "a/x/first:number b/y/second:number", ("What is {0} * {1}?", "What is {0} times {1}?", "Multiply {0} by {1}.", "Use the tool to multiply {0} and {1}.", "{0} * {1}", "What is {0} x {1}?", "What is the product of {0} and {1}?", "Calculate {0} * {1}", "What is {0} * {1}? Use tools."), "{0} * {1}"),
    Family("subtract minus difference", ("Subtract b from a.", "Returns the difference of two numbers"), "a/x/first:number b/y/second:number", ("What is {0} - {1}?", "What is {0} minus {1}?", "Subtract {1} from {0}.", "{0} - {1}", "Take {1} away from {0}."), "{0} - {1}"),
    Family("divide division", ("Divide a by b.", "Returns the quotient of two numbers"), "a/x/dividend:number b/y/divisor:number", ("What is {0} / {1}?", "What is {0} divided by {1}?", "Divide {0} by {1}."), "{0} / {1}"),
    Family("magic_function magicFunction secret_function", ("Applies a magic function to an input.", "A magic function", "Apply the magic function"), "input/x/value/number:integer", ("What is the value of magic_function({0})? Use the tool.", "What is the value of magic_function({0})?", "Use the magic function on {0}.", "Call magic_function with {0}.", "Apply the magic function to {0}."), "the value of magic_function({0})"),
    Family("magic_function_no_args magic_number get_magic_number", ("Calculate a magic function.", "Calculates a magic number."), "", ("What is the value of magic_function_no_args()? Use the tool.", "What is the magic number?", "Calculate the magic function.", "Get the magic number."), "the value of magic_function_no_args()"),
    Family("calculator calculate evaluate math_eval", ("Evaluate an arithmetic expression.", "Calculator for math expressions"), "expression/expr/input:expression", ("What is {0}?", "Calculate {0}.", "Compute {0}", "Evaluate {0}.", "How much is {0}?"), "{0}"),
    Family("search web_search search_web google duckduckgo_search", ("Search the web.", "Search the web for a query", "Useful to look things up"), "query/q/text:topic limit/max_results/num_results:small?", ("Search for {0}.", "Search the web for {0}", "Look up {0}.", "Find information about {0}.", "What can you find about {0}?", "Search for {0} and give me {1} results.", "Google {0}"), "{0}"),
    Family("search_wikipedia wikipedia wiki_lookup", ("Look up an article in an encyclopedia", "Search the encyclopedia"), "title/query/term:topic", ("What does the encyclopedia say about {0}?", "Look {0} up in the encyclopedia.", "Read me the article on {0}."), "{0}"),
    Family("send_email sendEmail email mail_send", ("Send an email.", "Sends an email to somebody", "Send an email message"), "to/recipient/address:email subject/title:phrase body/text/message:phrase?", ("Send an email to {0} with the subject {1}.", "Email {0} with subject {1} and body {2}.", "Write a mail to {0}, subject {1}, text {2}.", "Please send {0} an email titled {1} that says {2}.")),
    Family("send_message send_sms message_user sendMessage", ("Send a text message to a person.", "Send a message"), "to/recipient/user:person text/message/content:phrase", ("Send {0} the message {1}.", "Text {0} {1}.", "Tell {0} {1}.", "Message {0}: {1}")),
    Family("get_time get_current_time current_time clock", ("Get the current time in a time zone.", "Returns the current time"), "timezone/tz:timezone", ("What time is it in {0}?", "What is the current time in {0}?", "Tell me the time in {0}."), "the time in {0}"),
    Family("get_local_time time_in_city city_time", ("The current local time of a city",), "city/location:place", ("What time is it in {0}?", "Tell me the local time in {0}.", "How late is it in {0}?"), "the time in {0}"),
    Family("now get_current_date today get_date", ("Get the current date and time.", "Returns today's date", "The current date"), "", ("What is the date today?", "What day is it?", "What's today's date?", "Which date do we have today?"), "the date"),
    Family("translate translate_text translator", ("Translate a text.", "Translates text into another language"), "text:phrase target_language/language/to:language", ("Translate {0} to {1}.", "Translate {0} into {1}", "How do you say {0} in {1}?", "What is {0} in {1}?"), "{0} in {1}"),
    Family("convert_currency exchange currency_convert", ("Convert an amount between currencies.",), "amount/value:number from_currency/source/from:currency to_currency/target/to:currency", ("Convert {0} {1} to {2}.", "How much is {0} {1} in {2}?", "What are {0} {1} in {2}?", "Exchange {0} {1} into {2}."), "{0} {1} in {2}"),
    Family("get_stock_price stock_price stock_quote quote", ("Get the current price of a stock.", "Returns the stock price for a ticker symbol"), "ticker/symbol:ticker", ("What is the stock price of {0}?", "How much is {0} stock?", "Get me the price of {0}.", "What does {0} trade at?"), "the price of {0}"),
    Family("create_reminder set_reminder remind add_reminder", ("Create a reminder.", "Set a reminder for later"), "text/title/message:phrase time/at/when:time", ("Remind me at {1}: {0}.", "Set a reminder for {1} that says {0}.", "Remind me {0} at {1}.")),
    Family("set_alarm alarm create_alarm", ("Set an alarm.",), "time/at:time", ("Set an alarm for {0}.", "Wake me at {0}.", "Wake me up at {0}, please.")),
    Family("set_timer timer start_timer", ("Start a timer.", "Set a timer in minutes"), "minutes/duration:small", ("Set a timer for {0} minutes.", "Start a {0} minute timer.", "Timer {0} minutes")),
    Family("create_event schedule_meeting add_event calendar_create", ("Create a calendar event.", "Schedule a meeting"), "title/name:phrase date/day:date time/start:time?", ("Create an event called {0} on {1}.", "Schedule {0} for {1} at {2}.", "Put {0} in my calendar on {1}.", "Add the event {0} on {1} at {2}.")),
    Family("get_calendar list_events get_events", ("List the events of a day.", "Shows the calendar"), "date/day:date", ("What is on my calendar for {0}?", "What do I have planned on {0}?", "Show my events for {0}."), "your calendar for {0}"),
    Family("create_customer add_customer new_customer", ("Create a customer with the given name.", "Create a customer"), "customer_name/name:name", ("Create a customer with the name {0}.", "Create a customer with the name {0} - use the tool.", "Add a customer called {0}.", "Make a new customer named {0}.")),
    Family("create_user add_user register_user", ("Create a user account.",), "name/username:person email:email age:small?", ("Create a user {0} with email {1}.", "Add the user {0} ({1}).", "Register {0} with the email {1}, aged {2}.", "Create a user {0} with email {1} and age {2}.")),
    Family("get_user find_user lookup_user get_user_info", ("Get a user by id.", "Look up user information"), "user_id/id:id", ("Get the user {0}.", "Who is user {0}?", "Show me user {0}.", "Look up the user with id {0}."), "user {0}"),
    Family("get_order order_status track_order check_order", ("Get the status of an order.", "Look up an order"), "order_id/id/number:id", ("Where is my order {0}?", "What is the status of order {0}?", "Track order {0}.", "Has order {0} shipped?"), "order {0}"),
    Family("cancel_order order_cancel", ("Cancel an order.",), "order_id/id:id reason:phrase?", ("Cancel order {0}.", "Please cancel my order {0}.", "Cancel the order {0} because of {1}.")),
    Family("book_flight flight_booking search_flights find_flights", ("Find flights between two cities.", "Book a flight"), "origin/from_city/departure:place destination/to_city/arrival:place date:date?", ("Book a flight from {0} to {1}.", "Find flights from {0} to {1} on {2}.", "I want to fly from {0} to {1}.", "Flights from {0} to {1}"), "flights from {0} to {1}"),
    Family("book_hotel find_hotel hotel_search search_hotels", ("Find a hotel in a city.",), "city/location:place nights:small? guests:small?", ("Find a hotel in {0}.", "Book a hotel in {0} for {1} nights.", "I need a hotel in {0} for {1} nights and {2} guests.", "Hotels in {0}"), "hotels in {0}"),
    Family("book_table reserve_table make_reservation", ("Reserve a table at a restaurant.",), "restaurant/name:person people/guests/party_size:small time:time", ("Book a table at {0} for {1} people at {2}.", "Reserve a table for {1} at {0}, {2}.", "Get us a table at {0} at {2} for {1}.")),
    Family("find_restaurant restaurant_search search_restaurants", ("Find restaurants in a city.",), "city/location:place cuisine/food:food?", ("Find a restaurant in {0}.", "Where can I eat in {0}?", "Find me a {1} place in {0}.", "Restaurants in {0}"), "restaurants in {0}"),
    Family("order_food order_pizza order_meal", ("Order food.",), "item/food/dish:food quantity/count/amount:small", ("Order {1} {0}.", "I'd like {1} {0}, please.", "Get me {1} {0}.", "Please order {1} {0} for us.")),
    Family("play_music play_song music_player", ("Play a song.",), "song/title/track:phrase artist:person?", ("Play {0}.", "Play {0} by {1}.", "Put on {0}.", "I want to hear {0} by {1}.")),
    Family("turn_on_light light_on switch_on_light", ("Turn on the light in a room.",), "room/location:item", ("Turn on the light in the {0}.", "Lights on in the {0}.", "It is dark in the {0}, switch the light on.")),
    Family("set_temperature thermostat heater_set", ("Set the temperature of a room.",), "temperature/degrees/value:small room/zone:item?", ("Set the temperature to {0}.", "Make it {0} degrees in the {1}.", "Set the {1} to {0} degrees.")),
    Family("read_file open_file get_file cat_file", ("Read a file.", "Returns the content of a file"), "path/file/filename:file", ("Read the file {0}.", "What is in {0}?", "Show me the content of {0}.", "Open {0}."), "{0}"),
    Family("write_file save_file create_file", ("Write text to a file.",), "path/filename/file:file content/text:phrase", ("Write {1} to {0}.", "Save {1} in the file {0}.", "Create the file {0} with the content {1}.")),
    Family("delete_file remove_file", ("Delete a file.",), "path/file/filename:file", ("Delete the file {0}.", "Remove {0}.", "Please delete {0}.")),
    Family("list_files ls list_directory", ("List the files of a folder.",), "path/directory/folder:file", ("List the files in {0}.", "What files are in {0}?", "Show the folder {0}."), "the files in {0}"),
    Family("run_command shell execute_command bash", ("Run a shell command.",), "command/cmd:phrase", ("Run the command {0}.", "Execute {0} in the shell.", "Run {0}")),
    Family("fetch_url get_page visit_webpage open_url", ("Fetch a web page.", "Visits a web page at the given url"), "url/link:url", ("Open {0}.", "Fetch {0}.", "What does {0} say?", "Read the page {0}.", "Summarize {0}"), "{0}"),
    Family("create_ticket open_ticket create_issue", ("Create a support ticket.", "Open an issue"), "title/summary:phrase priority/severity:level?", ("Create a ticket {0}.", "Open a ticket with the title {0} and priority {1}.", "File an issue: {0}.", "Create a {1} priority ticket {0}.")),
    Family("get_population population city_population", ("Get the population of a city or country.",), "place/city/country:place", ("How many people live in {0}?", "What is the population of {0}?", "Population of {0}"), "the population of {0}"),
    Family("get_capital capital_city", ("Get the capital of a country.",), "country:place", ("What is the capital of {0}?", "Which city is the capital of {0}?"), "the capital of {0}"),
    Family("get_distance distance route_distance", ("Distance between two places.",), "start/origin/a:place end/destination/b:place", ("How far is it from {0} to {1}?", "What is the distance between {0} and {1}?", "Distance from {0} to {1}"), "the distance from {0} to {1}"),
    Family("greeting_generator greet generate_greeting", ("Generate a greeting in a particular style of speaking.",), "answer_style/style:style", ("Using the tool, generate a {0} greeting.", "Generate a {0} greeting.", "Greet me in {0} style.", "Give me a greeting in the {0} style.")),
    Family("get_word_length word_length count_letters", ("Returns the length of a word.", "Count the letters of a word"), "word/text:word", ("How long is the word {0}?", "How many letters does {0} have?", "What is the length of {0}?"), "the length of {0}"),
    Family("reverse_string reverse_text", ("Reverse a text.",), "text/string:word", ("Reverse {0}.", "What is {0} backwards?", "Spell {0} in reverse."), "{0} reversed"),
    Family("square square_number", ("Square a number.",), "x/number/n:integer", ("What is the square of {0}?", "Square {0}.", "What is {0} squared?"), "the square of {0}"),
    Family("square_root sqrt", ("The square root of a number.",), "x/number/n:integer", ("What is the square root of {0}?", "Take the square root of {0}."), "the square root of {0}"),
    Family("fibonacci fib", ("The n-th Fibonacci number.",), "n:small", ("What is Fibonacci number {0}?", "Compute fibonacci({0}).", "Give me the Fibonacci number {0}."), "Fibonacci number {0}"),
    Family("random_number roll_dice dice", ("Roll a die with some sides.", "A random number"), "sides/maximum/max:small", ("Roll a die with {0} sides.", "Roll a {0} sided die.", "Pick a random number up to {0}."), "the roll"),
    Family("sum_list sum_numbers add_all", ("Add all numbers of a list.",), "numbers/values:integers", ("What is the sum of {0}?", "Add up {0}.", "Sum {0}."), "the sum"),
    Family("remember save_memory store_fact save_note", ("Store a fact for later.", "Save a note"), "text/fact/note:phrase", ("Remember {0}.", "Save the note {0}.", "Store the fact {0}.")),
    Family("add_to_list add_items shopping_list_add", ("Add items to the shopping list.",), "items/products:strings", ("Put {0} on my shopping list.", "Add {0} to the list.", "We need {0}, put it on the list.")),
    Family("transfer_money send_money pay", ("Send money to somebody.",), "recipient/to/name:person amount/value:number currency:currency?", ("Send {1} to {0}.", "Transfer {1} {2} to {0}.", "Pay {0} {1} {2}.", "Give {0} {1}.")),
    Family("get_balance account_balance balance", ("Get the balance of an account.",), "account/account_id:id", ("What is the balance of account {0}?", "How much money is in {0}?", "Show the balance of {0}."), "the balance of {0}"),
    Family("query_database run_sql sql_query", ("Run an SQL query.",), "query/sql:phrase", ("Run the query {0}.", "Run {0} on the database.", "Query the database: {0}"), "the query"),
    Family("get_customer_by_email find_customer", ("Find a customer by email.",), "email:email", ("Find the customer with the email {0}.", "Which customer has the email {0}?", "Look up {0}."), "the customer {0}"),
    Family("get_secret get_password get_secret_word", ("Returns the secret word.", "Get the secret"), "name/key:word?", ("What is the secret word?", "Tell me the secret.", "Get the secret.", "What is the secret of {0}?"), "the secret"),
    Family("transfer_to_agent handoff transfer_to_support", ("Hand the conversation over to another agent.",), "agent/agent_name:person", ("Transfer me to {0}.", "I want to speak to {0}.", "Hand me over to {0}.")),
)  # fmt: skip

# Families whose tools could answer the same request: at most one of a group is offered.
_GROUPS: tuple[tuple[str, ...], ...] = (
    ("get_weather", "get_forecast"),
    ("add", "multiply", "subtract", "divide", "calculator", "sum_list", "square", "square_root"),
    ("get_time", "get_local_time", "now"),
    (
        "search",
        "search_wikipedia",
        "get_population",
        "get_capital",
        "fetch_url",
        "read_file",
        "get_user",
        "get_customer_by_email",
    ),
    ("send_email", "send_message"),
    ("create_event", "create_reminder", "set_alarm", "set_timer"),
    ("magic_function", "magic_function_no_args", "random_number"),
    ("book_flight", "get_distance"),
    ("remember", "add_to_list"),
    ("run_command", "query_database", "write_file", "list_files", "delete_file"),
    ("create_customer", "create_user"),
    ("find_restaurant", "book_table", "order_food", "book_hotel"),
    ("turn_on_light", "set_temperature"),
)
ARITHMETIC = {"add", "multiply", "subtract", "divide", "calculator", "sum_list", "square", "square_root"}
LOOKING_UP = {"search", "search_wikipedia", "get_population", "get_capital", "fetch_url"}


def rivals(family: int) -> set[int]:
    """The families that must not stand beside this one, itself among them."""
    name = FAMILIES[family].names.split()[0]
    found = {family}
    for group in _GROUPS:
        if name in group:
            found |= {at for at, other in enumerate(FAMILIES) if other.names.split()[0] in group}
    return found


def numbers_of(names: set[str]) -> set[int]:
    return {at for at, family in enumerate(FAMILIES) if family.names.split()[0] in names}


_SLOT = re.compile(r"\{(\d)\}")


def instance(namer: Namer, family: int = -1) -> Instance:
    """A tool of this family (any, if -1) and one natural request for it."""
    rng = namer.rng
    family = rng.randrange(len(FAMILIES)) if family < 0 else family
    spec = FAMILIES[family]
    ask = rng.choice(spec.asks)
    mentioned = {int(slot) for slot in _SLOT.findall(ask)}
    parameters: list[Parameter] = []
    arguments: dict[str, Any] = {}
    said: list[str] = []
    for at, text in enumerate(spec.parameters.split()):
        aliases, kind = text.rstrip("?").split(":")
        name = rng.choice(aliases.split("/")) if rng.random() < 0.5 else aliases.split("/")[0]
        schema = _schema(kind)
        optional = text.endswith("?")
        described = f"The {name.replace('_', ' ')}" if rng.random() < 0.25 else ""
        if kind in _DESCRIPTIONS and rng.random() < 0.25:
            described = rng.choice(_DESCRIPTIONS[kind])
        data, words_for_it = KINDS[kind](namer)
        said.append(words_for_it)
        if optional and at not in mentioned and rng.random() < 0.5:
            continue  # this version of the tool has no such parameter
        parameters.append(Parameter(name, schema, not optional, name.replace("_", " "), described))
        if at in mentioned:
            arguments[name] = data
        elif not optional:
            raise AssertionError(f"{ask!r} leaves out {name}")
    names = spec.names.split()
    description = rng.choice(spec.descriptions) if rng.random() < 0.85 else ""
    tool = Tool(
        rng.choice(names) if rng.random() < 0.5 else names[0], f"#{family}", "", parameters, description
    )
    if rng.random() < 0.35:
        tool.name = rng.choice(names)
    return Instance(tool, arguments, ask.format(*said), spec.topic.format(*said), family)


def _schema(kind: str) -> dict[str, Any]:
    if kind in _ENUMS:
        return {"type": "string", "enum": _ENUMS[kind]}
    if kind == "strings":
        return {"type": "array", "items": {"type": "string"}}
    if kind == "integers":
        return {"type": "array", "items": {"type": "integer"}}
    return {"type": _JSON_TYPES.get(kind, "string")}
