"""Pages of the web, fetched politely and once: a sitemap or a list of addresses into files.

sitemap, list ──▶ addresses ──▶ robots.txt, one request at a time and host ──▶ STILLROOM_CACHE/crawl ──▶ pages

robots.txt is obeyed, with its Crawl-delay; pages come from the hosts that were named, and redirects lead
nowhere else. 429 and 5xx are asked again, as late as Retry-After says. What was fetched is kept: a run that
was cut off goes on, and a later one asks only for what is new, or for pages fetched before `newer_than`, and
gets of these only what has changed (ETag, Last-Modified).

`sitemap` reads addresses, `visit` fetches them, `shelf` keeps the pages, `pages` names them; `crawler` has it
all done.
"""
