"""Word lists that the generator draws common words from. Written for this purpose; nothing here is looked up."""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Verbs that tools do, with the ways people ask for the same thing.
VERBS: dict[str, tuple[str, ...]] = {
    "create": ("create", "make", "set up"),
    "delete": ("delete", "remove"),
    "find": ("find", "look up"),
    "get": ("get", "fetch", "show me"),
    "update": ("update", "change"),
    "send": ("send",),
    "book": ("book", "reserve"),
    "cancel": ("cancel", "call off"),
    "list": ("list", "show"),
    "open": ("open",),
    "close": ("close", "shut"),
    "start": ("start", "begin"),
    "stop": ("stop", "halt"),
    "add": ("add",),
    "print": ("print",),
    "read": ("read",),
    "write": ("write",),
    "move": ("move",),
    "copy": ("copy", "duplicate"),
    "check": ("check", "verify"),
    "count": ("count",),
    "order": ("order",),
    "sell": ("sell",),
    "buy": ("buy", "purchase"),
    "pay": ("pay",),
    "rename": ("rename",),
    "archive": ("archive",),
    "restore": ("restore", "bring back"),
    "schedule": ("schedule", "plan"),
    "assign": ("assign",),
    "approve": ("approve",),
    "reject": ("reject", "turn down"),
    "upload": ("upload",),
    "download": ("download",),
    "translate": ("translate",),
    "convert": ("convert",),
    "measure": ("measure",),
    "compute": ("compute", "work out"),
    "track": ("track", "follow"),
    "lock": ("lock",),
    "unlock": ("unlock",),
    "play": ("play",),
    "pause": ("pause",),
    "search": ("search",),
    "rate": ("rate",),
    "scan": ("scan",),
    "merge": ("merge", "combine"),
    "split": ("split",),
    "sort": ("sort",),
    "ship": ("ship",),
    "paint": ("paint",),
    "repair": ("repair", "fix"),
    "rent": ("rent", "hire"),
    "renew": ("renew", "extend"),
    "test": ("test", "try out"),
    "deploy": ("deploy", "roll out"),
    "export": ("export",),
    "import": ("import",),
    "notify": ("notify",),
    "invite": ("invite",),
}

NOUNS = _split(
    "order ticket flight hotel room table meeting event reminder task note file folder document report invoice "
    "payment account user customer member team project issue branch commit server database record row backup image "
    "photo video song playlist album book page article recipe menu meal pizza car bike train bus taxi trip route map "
    "package parcel shipment product item price discount coupon cart store shop warehouse stock sensor lamp light door "
    "window heater fan camera alarm timer clock calendar message email letter comment post review survey form field "
    "profile password key token session device phone screen printer robot drone pump valve engine battery cable garden "
    "plant tree flower seed fish horse sheep contract lease loan budget salary expense refund subscription license "
    "course lesson exam grade student teacher school library patient doctor appointment prescription pill game match "
    "player score level badge channel thread chat group list queue job worker cluster container volume network domain "
    "certificate rule policy filter label tag category chart graph table column cell matrix vector number string word "
    "sentence story poem quote joke language city country street address parking elevator bridge harbor boat ship"
)

PARAMETERS = _split(
    "name title id code city place location address street country date day month year time start end duration amount "
    "price total count limit size width height depth length weight color status type kind category priority level "
    "user owner author sender recipient email phone message text body subject note comment reason description label "
    "tag tags items values numbers words language unit currency format mode path file folder url key value query topic "
    "keyword number age score rate percent speed distance temperature room floor seat port host version branch target "
    "source destination origin team project group member role zone region brand model material shape"
)

MODIFIERS = _split(
    "new old main first last next start end min max total user order item default target parent base"
)

GIVEN_NAMES = _split(
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Kate Leo Maria Noah Olga Paul Quinn Rosa Sam Tina Ugo Vera "
    "Will Xenia Yara Zoe Alice Bob Carol Dan Eve Frank Grace Henry Ivy Jack Karen Liam Mia Nina Oscar Petra Rita Simon "
    "Tom Uma Victor Wendy Yusuf Zara Ahmed Aiko Chen Diego Elif Fatima Giulia Hiro Ines Javier Kenji Lena Mateo Nadia "
    "Omar Priya Ravi Sofia Tariq Ursula Wei Yuki John Jane Peter Laura Mark Julia Max Lucy Erik Nora Adam Lily"
)

CITIES = (
    "Tokyo", "Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Lisbon", "Dublin", "Prague", "Warsaw",
    "Athens", "Cairo", "Nairobi", "Lagos", "Delhi", "Mumbai", "Beijing", "Shanghai", "Seoul", "Bangkok", "Hanoi",
    "Jakarta", "Manila", "Sydney", "Melbourne", "Auckland", "Toronto", "Montreal", "Vancouver", "Chicago", "Boston",
    "Seattle", "Denver", "Miami", "Houston", "Dallas", "Atlanta", "New York", "Los Angeles", "San Francisco",
    "San Francisco, CA", "Mexico City", "Lima", "Bogota", "Santiago", "Buenos Aires", "Rio de Janeiro", "Sao Paulo",
    "Istanbul", "Dubai", "Tel Aviv", "Munich", "Hamburg", "Cologne", "Zurich", "Geneva", "Milan", "Naples", "Barcelona",
    "Porto", "Amsterdam", "Brussels", "Copenhagen", "Stockholm", "Helsinki", "Reykjavik", "Budapest", "Kyoto", "Osaka",
    "Singapore", "Hong Kong", "Taipei", "Boston, MA", "Austin, TX", "Paris, France", "Tokyo, Japan", "Berlin, Germany",
)  # fmt: skip

COLORS = _split("red blue green yellow black white orange purple pink brown gray violet teal gold silver")
ANIMALS = _split(
    "cat dog horse fox owl bear wolf rabbit turtle parrot goat duck hamster lizard crow otter badger mouse"
)
FOODS = _split(
    "pizza soup bread rice pasta salad cheese apple noodle pancake curry taco honey plum carrot bean melon"
)
HOBBIES = _split(
    "chess running painting sailing cooking hiking reading dancing fishing knitting cycling gardening"
)
JOBS = _split(
    "teacher doctor nurse baker pilot farmer engineer lawyer writer painter carpenter driver chemist plumber"
)
ADJECTIVES = _split(
    "quick small big old new quiet bright dark warm cold soft heavy light long short wide clean round"
)
UNITS = _split(
    "celsius fahrenheit meters kilometers miles feet grams kilograms pounds liters seconds minutes hours"
)
LANGUAGES = _split(
    "English German French Spanish Italian Japanese Korean Dutch Polish Turkish Arabic Hindi Greek"
)
CURRENCIES = _split("EUR USD GBP JPY CHF CAD AUD SEK INR CNY")
TIMEZONES = _split(
    "UTC CET Europe/Berlin America/New_York Asia/Tokyo Asia/Kolkata Africa/Cairo Europe/London"
)
STATUSES = _split(
    "open closed pending done active paused ready failed queued shipped delivered cancelled draft sent"
)
LEVELS = _split("low medium high urgent normal critical minor major")
CONDITIONS = _split("sunny cloudy rainy windy snowy foggy stormy clear hot cold humid mild")
WEEKDAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _split("January February March April May June July August September October November December")
PLAIN_WORDS = _split(
    "meet me at the old station see you soon happy birthday call back later please bring some milk the door is open "
    "we won today thanks for all your help running late again dinner is ready new plan for next week all tests pass "
    "keep it simple good morning team do not forget our lunch water plants every evening fresh paint on left side"
)
DOMAINS = _split(
    "example.com example.org mail.example test.example shop.example acme.test site.example data.example"
)
EXTENSIONS = _split("txt pdf csv json md png jpg py log xml yaml html")
ENUM_WORDS = _split(
    "small medium large low high fast slow asc desc daily weekly monthly north south east west public private draft "
    "final light dark auto manual read write admin guest cash card metric imperial left right top bottom on_demand "
    "economy business first basic pro free sunny rainy json xml text html newest oldest full partial"
)
