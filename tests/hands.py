"What a hand does on a page of the browser tests."


def middle(locator):
    locator.scroll_into_view_if_needed()
    b = locator.bounding_box()
    return b['x'] + b['width'] / 2, b['y'] + b['height'] / 2


def drag(page, locator, dx, dy):
    x, y = middle(locator)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def press_keys(page, locator, *keys):
    locator.focus()
    for key in keys: page.keyboard.press(key)
